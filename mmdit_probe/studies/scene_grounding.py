"""What tiny-sd3 knows about where its words are: masks, text mass and blur harm, layer by layer.

All on scenes with exact masks, with the class names present as the prompt. No number here was used in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from mmdit_probe.configs import GenerationConfig
from mmdit_probe.datasets.scenes import CLASSES, Scene
from mmdit_probe.edits import BlurText
from mmdit_probe.families import layers_of, text_parts_of
from mmdit_probe.metrics.segmentation import Scores, score
from mmdit_probe.pipelines.forward import (
    PromptEmbeddings,
    add_noise,
    encode_images,
    encode_prompts,
    forward_noisy,
    forward_once,
    noise_level,
)
from mmdit_probe.pipelines.prompts import find_words
from mmdit_probe.probe.probe import Probe
from mmdit_probe.readouts.maps import I2TMaps
from mmdit_probe.readouts.region_mass import RegionMass
from mmdit_probe.segmentation.label_map import class_maps, label_map

BATCH = 50
MEAN_OF_LAYERS = "mean of all layers"


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Scenes as the model takes them: clean latents, class-list prompts, and the token positions of each name."""

    scenes: Sequence[Scene]
    latents: Tensor
    prompts: PromptEmbeddings
    spans: Sequence[Sequence[Sequence[int]]]


def scene_batches(pipe: Any, scenes: Sequence[Scene], max_sequence_length: int) -> Iterator[SceneBatch]:
    """The scenes, `BATCH` at a time."""
    for start in range(0, len(scenes), BATCH):
        chosen = scenes[start : start + BATCH]
        lists = [scene.class_list() for scene in chosen]
        parts = text_parts_of(pipe, max_sequence_length)
        spans = [find_words(parts, text, scene.classes) for text, scene in zip(lists, chosen, strict=True)]
        latents = encode_images(pipe, [scene.image for scene in chosen])
        yield SceneBatch(chosen, latents, encode_prompts(pipe, lists, max_sequence_length), spans)


def read_batch(pipe: Any, batch: SceneBatch, sigma: float, seed: int) -> xr.Dataset:
    """I2T maps and region mass of all layers, from one forward pass."""
    with Probe(pipe, [I2TMaps(), RegionMass()]) as probe:
        forward_noisy(pipe, batch.latents, sigma, batch.prompts, seed)
    return probe.dataset()


def predict(scene: Scene, maps: Tensor, spans: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map, class numbers of the data set, from I2T maps (row, col, token)."""
    local = label_map(class_maps(maps, spans), scene.labels.shape).numpy()
    return np.array([CLASSES.index(name) for name in scene.classes])[local]


def score_layers(
    pipe: Any, scenes: Sequence[Scene], timestep: int, seed: int, max_sequence_length: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Masks and mass of each layer at one timestep and noise seed.

    Returns one row a layer (and one for the mean of all layers' maps) with ``miou``, ``pixel_accuracy``, and one row a
    layer with ``i2t_mass``, ``uniform``.
    """
    sigma = noise_level(pipe, timestep, GenerationConfig.steps)
    totals: dict[Any, Scores] = {}
    masses = []
    for batch in scene_batches(pipe, scenes, max_sequence_length):
        record = read_batch(pipe, batch, sigma, seed + batch.scenes[0].index)
        masses.append(record["region_mass"].sel(region="I2T").mean(("call", "head")))
        maps = torch.from_numpy(record["i2t"].isel(call=0).values)
        layers = record["layer"].values.tolist()
        for row, scene in enumerate(batch.scenes):
            views = {layer: maps[row, i] for i, layer in enumerate(layers)}
            views[MEAN_OF_LAYERS] = maps[row].mean(0)
            for name, view in views.items():
                scored = score(scene.labels, predict(scene, view, batch.spans[row]), len(CLASSES))
                totals[name] = totals[name] + scored if name in totals else scored
    masks = pd.DataFrame(
        [{"layer": name, "miou": s.miou, "pixel_accuracy": s.pixel_accuracy} for name, s in totals.items()]
    )
    mass = (
        xr.concat(masses, "batch")
        .mean("batch")
        .astype(float)
        .to_series()
        .rename("i2t_mass")
        .reset_index()[["layer", "i2t_mass"]]
    )
    mass["uniform"] = record.attrs["text_tokens"] / (record.attrs["text_tokens"] + record.attrs["image_tokens"])
    for frame in (masks, mass):
        frame.insert(0, "timestep", timestep)
        frame.insert(1, "sigma", sigma)
        frame.insert(2, "seed", seed)
    return masks, mass


def blur_harm(pipe: Any, scenes: Sequence[Scene], timestep: int, seed: int, max_sequence_length: int) -> pd.DataFrame:
    """How much of what the caption gives is lost when one layer's I2T attention is blurred along the text.

    ``harm`` is the rise of the flow-matching loss as a share of the rise from no caption at all (the empty prompt).
    """
    sigma = noise_level(pipe, timestep, GenerationConfig.steps)
    layers = range(len(layers_of(pipe)))
    losses: dict[Any, list[float]] = {}
    for batch in scene_batches(pipe, scenes, max_sequence_length):
        noisy = add_noise(batch.latents, sigma, seed + batch.scenes[0].index)
        velocity = (noisy - batch.latents) / sigma
        empty = encode_prompts(pipe, [""] * len(batch.scenes), max_sequence_length)

        def loss(features: PromptEmbeddings, x: Tensor = noisy, target: Tensor = velocity) -> float:
            return float((forward_once(pipe, x, sigma, features) - target).square().mean())

        losses.setdefault("prompt", []).append(loss(batch.prompts))
        losses.setdefault("empty", []).append(loss(empty))
        for layer in layers:
            with Probe(pipe, [], edits=[BlurText(layer)]):
                losses.setdefault(layer, []).append(loss(batch.prompts))
    mean = {name: float(np.mean(values)) for name, values in losses.items()}
    gap = mean["empty"] - mean["prompt"]
    return pd.DataFrame(
        [
            {"timestep": timestep, "sigma": sigma, "layer": layer, "harm": (mean[layer] - mean["prompt"]) / gap}
            for layer in layers
        ]
    )


def baselines(scenes: Sequence[Scene], grid: int = 8, seed: int = 0) -> dict[str, dict[str, float]]:
    """What needs no model: the largest class everywhere, a random present class per pixel, and the grid's ceiling.

    The ceiling upsamples the exact class shares of each token bilinearly, as maps are.
    """
    rng = np.random.default_rng(seed)
    totals: dict[str, Scores] = {}
    for scene in scenes:
        present = np.unique(scene.labels)
        counts = np.bincount(scene.labels.ravel(), minlength=len(CLASSES))
        shares = torch.stack([torch.from_numpy(scene.labels == c).float() for c in present])
        pooled = torch.nn.functional.adaptive_avg_pool2d(shares[None], grid)[0]
        guesses = {
            "largest class": np.full_like(scene.labels, counts.argmax()),
            "random present class": rng.choice(present, scene.labels.shape),
            "ceiling of the grid": present[label_map(pooled, scene.labels.shape).numpy()],
        }
        for name, guess in guesses.items():
            scored = score(scene.labels, guess, len(CLASSES))
            totals[name] = totals[name] + scored if name in totals else scored
    return {name: {"miou": s.miou, "pixel_accuracy": s.pixel_accuracy} for name, s in totals.items()}
