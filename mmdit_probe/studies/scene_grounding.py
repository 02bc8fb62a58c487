"""What an embedded model knows about where its words are: masks, I2T mass and harm of a blur, layer by layer.

All on scenes with exact masks, with the names of the classes present as the prompt. No number here was used in training.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from mmdit_probe.configs import GenerationConfig
from mmdit_probe.datasets.scenes import CLASSES, Scene
from mmdit_probe.edits import BlurText
from mmdit_probe.families import Pipeline, layers_of, text_parts_of
from mmdit_probe.families.image_input import packed
from mmdit_probe.metrics.segmentation import measure_labels
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
from mmdit_probe.segmentation.layer_metrics import MetricsByName
from mmdit_probe.utils.progress import Progress

BATCH = 50
MEAN_OF_LAYERS = "mean of all layers"


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Scenes as the model takes them.

    Attributes:
        scenes: the scenes.
        latents: their clean latents, (scenes, channels, rows, cols).
        prompts: their encoded prompts, each the names of the scene's classes.
        spans: for each scene the token positions of each name.
    """

    scenes: Sequence[Scene]
    latents: Tensor
    prompts: PromptEmbeddings
    spans: Sequence[Sequence[Sequence[int]]]


def scene_batches(pipe: Pipeline, scenes: Sequence[Scene], max_sequence_length: int) -> Iterator[SceneBatch]:
    """The scenes, `BATCH` at a time."""
    for start in range(0, len(scenes), BATCH):
        chosen = scenes[start : start + BATCH]
        lists = [scene.class_list() for scene in chosen]
        parts = text_parts_of(pipe, max_sequence_length)
        spans = [find_words(parts, text, scene.classes) for text, scene in zip(lists, chosen, strict=True)]
        latents = encode_images(pipe, [scene.image for scene in chosen])
        yield SceneBatch(chosen, latents, encode_prompts(pipe, lists, max_sequence_length), spans)


def read_batch(pipe: Pipeline, batch: SceneBatch, sigma: float, seed: int) -> xr.Dataset:
    """I2T maps and region mass of all layers, from one forward pass."""
    with Probe(pipe, [I2TMaps(), RegionMass()]) as probe:
        forward_noisy(pipe, batch.latents, sigma, batch.prompts, seed)
    return probe.dataset()


def add_scene(
    totals: MetricsByName, scene: Scene, maps: Mapping[Hashable, Tensor], spans: Sequence[Sequence[int]]
) -> None:
    """Add one scene's masks to ``totals``, made of each layer's I2T maps (row, col, token)."""
    offered = [CLASSES.index(name) for name in scene.classes]
    by_class = ((layer, class_maps(own, spans)) for layer, own in maps.items())
    totals.add_layers(by_class, offered, scene.labels, len(CLASSES))


class LayerMeasures(NamedTuple):
    """What `measure_layers` finds; both tables begin with ``timestep``, ``sigma``, ``seed`` and ``layer``.

    Attributes:
        masks: ``miou`` and ``pixel_accuracy`` in [0, 1], one row for each layer and one for the mean of all layers' maps;
            ``low`` and ``high`` are the 95% bootstrap interval of ``miou`` over the ``scenes``, NaN below 5.
        mass: ``i2t_mass``, the share of attention that image tokens give text, and ``uniform``, text's share of the tokens.
    """

    masks: pd.DataFrame
    mass: pd.DataFrame


def measure_layers(
    pipe: Pipeline,
    scenes: Sequence[Scene],
    timestep: int,
    seed: int,
    max_sequence_length: int,
    steps: int = 28,
    progress: Progress | None = None,
) -> LayerMeasures:
    """Masks and I2T mass of each layer on scenes, at one timestep and with one noise seed.

    Args:
        pipe: an embedded model, or another pipeline that knows scenes.
        scenes: the scenes; the noise of a batch has the seed ``seed`` plus the number of the batch's first scene.
        timestep: counted from the clean end, of ``steps``.
        seed: of the noise.
        max_sequence_length: T5 positions.
        steps: number of sampling steps that the timestep is counted in.
        progress: called with the scenes that are read, and all of them, after each batch.
    """
    sigma = noise_level(pipe, timestep, steps)
    totals, masses = MetricsByName(), []
    for batch in scene_batches(pipe, scenes, max_sequence_length):
        record = read_batch(pipe, batch, sigma, seed + batch.scenes[0].index)
        masses.append(record["region_mass"].sel(region="I2T").mean(("call", "head")))
        maps = torch.from_numpy(record["i2t"].isel(call=0).values)
        layers: list[Hashable] = record["layer"].values.tolist()
        for scene, own, spans in zip(batch.scenes, maps, batch.spans, strict=True):
            by_layer = {**dict(zip(layers, own, strict=True)), MEAN_OF_LAYERS: own.mean(0)}
            add_scene(totals, scene, by_layer, spans)
        if progress is not None:
            progress(sum(part.sizes["batch"] for part in masses), len(scenes))
    masks = totals.table("layer")
    bounds = [totals.interval(name) for name in masks["layer"]]
    masks = masks.assign(scenes=len(scenes), low=[one.low for one in bounds], high=[one.high for one in bounds])
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
    return LayerMeasures(masks, mass)


def mean_loss(pipe: Pipeline, noisy: Tensor, sigma: float, prompts: PromptEmbeddings, velocity: Tensor) -> float:
    """The mean square by which the prediction for noisy latents (batch, channels, rows, cols) misses their ``velocity``."""
    predicted = forward_once(pipe, noisy, sigma, prompts)
    return float((predicted - (packed(velocity) if predicted.ndim == 3 else velocity)).square().mean())


def blur_harm(
    pipe: Pipeline, scenes: Sequence[Scene], timestep: int, seed: int, max_sequence_length: int
) -> pd.DataFrame:
    """How much of the caption's use is lost when one layer's I2T attention is blurred along the text.

    One row for each layer: ``timestep``, ``sigma``, ``layer``, and ``harm``, the rise of the flow-matching loss as a
    fraction of the rise caused by the empty prompt. ``timestep`` counts from the clean end, of 28.
    """
    sigma = noise_level(pipe, timestep, GenerationConfig.steps)
    layers = range(len(layers_of(pipe)))
    losses: dict[Any, list[float]] = {}
    for batch in scene_batches(pipe, scenes, max_sequence_length):
        noisy = add_noise(batch.latents, sigma, seed + batch.scenes[0].index)
        velocity = (noisy - batch.latents) / sigma
        empty = encode_prompts(pipe, [""] * len(batch.scenes), max_sequence_length)

        def loss(features: PromptEmbeddings, x: Tensor = noisy, target: Tensor = velocity) -> float:
            return mean_loss(pipe, x, sigma, features, target)

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
    """mIoU and pixel accuracy in [0, 1] without a model: the largest class, a random present class per pixel, and the ceiling
    of a ``grid`` x ``grid`` token grid, which upsamples each token's exact class shares bilinearly, as maps are.
    """
    rng = np.random.default_rng(seed)
    totals = MetricsByName()
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
            totals.add(name, measure_labels(scene.labels, guess, len(CLASSES)))
    return totals.table("name").set_index("name").to_dict("index")
