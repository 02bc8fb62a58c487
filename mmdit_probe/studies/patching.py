"""Causal tracing: how far an image moves toward another prompt's when that prompt's states are written into its run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import PatchConfig
from ..edits import Patch
from ..families import Pipeline
from ..metrics.image_metrics import ImageMetric
from ..metrics.inference import best, mean_interval, picked_p
from ..metrics.object_place import object_center
from ..metrics.scene_reader import Fact, SceneReader, prompt_facts
from ..metrics.verdicts import Form, in_words, lead_lines
from ..pipelines.generation import generation_arguments
from ..pipelines.layers import chosen_layers
from ..probe.probe import Probe
from ..probe.states import record_states
from ..storage.records import FORMAT
from ..storage.runs import RunFolder, Unit
from ..utils.progress import Progress
from .image_grid import generate_batch

PAIRS = (
    ("a red circle on grass", "a blue square on sand"),
    ("a blue star on snow", "a yellow heart on grass"),
    ("a green triangle on lava", "a purple circle on water"),
    ("a yellow square on water", "a red star on snow"),
    ("a purple heart on sand", "a green circle on snow"),
    ("a pink star on grass", "a blue triangle on lava"),
    ("a white circle on water", "a red triangle on sand"),
    ("a green square on snow", "a yellow circle on lava"),
)
"""Pairs for embedded models, word by word alike, that differ in color, shape and ground: source and target."""
KINDS = ("color", "shape", "ground")
PLACE = "place"
_NEAR = 0.02
"""Images whose similarity is this near to 1 are too much alike to say how far one has moved toward the other."""
_NEARBY = 0.1
"""Objects whose centers are nearer than this, in fractions of the image, stand in the same place."""


@dataclass(frozen=True, eq=False)
class PatchedImages:
    """All images of a run, uint8 RGB.

    Attributes:
        pairs: (source, target) prompts.
        layers: the patched layers.
        starts: the steps from which on they are patched.
        source: (pairs, height, width, 3) of the source prompts.
        target: the same of the target prompts.
        patched: (pairs, layers, starts, height, width, 3) of the target prompts with the sources' states.
    """

    pairs: tuple[tuple[str, str], ...]
    layers: tuple[int, ...]
    starts: tuple[int, ...]
    source: np.ndarray
    target: np.ndarray
    patched: np.ndarray


def run_patching(
    pipe: Pipeline, config: PatchConfig, out: Path, model: str, progress: Progress | None = None
) -> PatchedImages:
    """Images of every pair, plain and with each layer patched from each start on; an interrupted run continues."""
    if len(config.source) != len(config.to) or not config.source:
        raise ValueError(
            f"patch: give as many --from as --to, at least one; got {len(config.source)} and {len(config.to)}"
        )
    config = replace(config, layers=chosen_layers(pipe, config.layers), steps_from=config.starts)
    pairs, layers = tuple(zip(config.source, config.to, strict=True)), chosen_layers(pipe, config.layers)
    found: dict[str, list[np.ndarray]] = {"source": [], "target": [], "patched": []}
    parts: tuple[str | int, ...] = ("source", "target", *layers)
    tasks = [(number, pair, what) for number, pair in enumerate(pairs) for what in parts]
    units = [
        Unit(
            f"pair{number:03d}-{what if isinstance(what, str) else f'layer{what:02d}'}",
            partial(_made, pipe, config, pair, what),
        )
        for number, pair, what in tasks
    ]
    with RunFolder.for_study(out, "patch", model, config).open() as run:
        for (_, _, what), item in zip(tasks, run.finished(units, progress), strict=True):
            images = item["image"].values
            if isinstance(what, str):
                found[what].append(images[0])
            else:
                found["patched"].append(images)
    patched = np.stack(found["patched"])
    patched = patched.reshape(len(pairs), len(layers), *patched.shape[1:])
    return PatchedImages(pairs, layers, config.starts, np.stack(found["source"]), np.stack(found["target"]), patched)


def _made(pipe: Pipeline, config: PatchConfig, pair: tuple[str, str], what: str | int) -> xr.Dataset:
    """The "source" or "target" image of a pair, or those of a patched layer, one for each start."""
    images = (
        [_generated(pipe, config, pair[what == "target"])]
        if isinstance(what, str)
        else _patched(pipe, config, pair, what)
    )
    return xr.Dataset({"image": (("start", "row", "col", "rgb"), np.stack(images))}, attrs={"format": FORMAT})


def _patched(pipe: Pipeline, config: PatchConfig, pair: tuple[str, str], layer: int) -> list[np.ndarray]:
    source, target = pair
    arguments = generation_arguments(pipe, config.generation)
    arguments.pop("generator")
    steps = range(min(config.starts), config.generation.steps)
    tokens = config.tokens
    states = record_states(
        pipe,
        source,
        what=config.what,
        layers=[layer],
        steps=steps,
        tokens=tokens,
        seed=config.generation.seed,
        **arguments,
    )
    edits = [Patch(states, layer, steps=range(start, config.generation.steps)) for start in config.starts]
    return [_generated(pipe, config, target, edit) for edit in edits]


def _generated(pipe: Pipeline, config: PatchConfig, prompt: str, edit: Patch | None = None) -> np.ndarray:
    with nullcontext() if edit is None else Probe(pipe, [], edits=[edit]):
        image: np.ndarray = generate_batch(pipe, [prompt], config.generation.seed, config.generation)[0]
    return image


def measure_moves(
    images: PatchedImages, similarities: Mapping[str, ImageMetric], reader: SceneReader | None = None
) -> pd.DataFrame:
    """How far each patched image has moved from the target's toward the source's.

    One row for each ``layer``, start (``steps_from``), ``pair`` and ``metric``; ``moved`` is 0 for the target's own image
    and 1 for the source's. Of a similarity s it is (s(patched, source) - s(target, source)) / (1 - s(target, source)), NaN
    for images that are alike anyway. With a reader, of "color", "shape" and "ground": the share of the facts that only the
    source's prompt states which the patched image shows, less that of the target's image; NaN if the prompts agree. And of
    "place": how far the object has gone from where it stands in the target's image toward where it stands in the source's,
    NaN if these are the same place or an image does not show one object.
    """
    rows = []
    for place, layer in enumerate(images.layers):
        for column, start in enumerate(images.starts):
            own = images.patched[:, place, column]
            moved = {name: _similarity_move(metric, images, own) for name, metric in similarities.items()}
            moved |= {} if reader is None else _fact_moves(reader, images, own)
            rows += [
                {"layer": layer, "steps_from": start, "pair": pair, "metric": name, "moved": float(value)}
                for name, values in moved.items()
                for pair, value in enumerate(values)
            ]
    return pd.DataFrame(rows)


def _similarity_move(metric: ImageMetric, images: PatchedImages, patched: np.ndarray) -> np.ndarray:
    prompts = [target for _, target in images.pairs]
    before, after = (metric(made, images.source, prompts) for made in (images.target, patched))
    room = np.where(1 - before > _NEAR, 1 - before, np.nan)
    return np.asarray((after - before) / room)


def _fact_moves(reader: SceneReader, images: PatchedImages, patched: np.ndarray) -> dict[str, np.ndarray]:
    stated = [(prompt_facts(source), prompt_facts(target)) for source, target in images.pairs]
    before, after = reader.read(images.target), reader.read(patched)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for (source, target), old, new in zip(stated, before, after, strict=True):
        for kind in KINDS:
            own = of_kind(source, kind) - of_kind(target, kind)
            gained = len(own & of_kind(new, kind)) - len(own & of_kind(old, kind))
            found[kind].append(gained / len(own) if own else np.nan)
    facts = reader.read(images.source), before, after
    centers = [
        np.array([object_center(*one) for one in zip(made, read, strict=True)])
        for made, read in zip((images.source, images.target, patched), facts, strict=True)
    ]
    return {**{kind: np.array(values) for kind, values in found.items()}, PLACE: _share_of_way(*centers)}


def _share_of_way(source: np.ndarray, target: np.ndarray, patched: np.ndarray) -> np.ndarray:
    """(pairs,): how far places (pairs, 2) have gone along the way from ``target`` to ``source``; NaN for hardly any way."""
    way = source - target
    length = (way**2).sum(1)
    share: np.ndarray = ((patched - target) * way).sum(1) / np.where(length > _NEARBY**2, length, np.nan)
    return share


def of_kind(facts: frozenset[Fact], kind: str) -> set[str]:
    """The colors of shapes, the shapes, or the grounds among facts."""
    if kind == "color":
        return {fact[0] for fact in facts if len(fact) == 2}
    shapes = {fact[1] for fact in facts if len(fact) == 2}
    if kind == "shape":
        return shapes
    return {fact[0] for fact in facts if len(fact) == 1} - shapes


def move_table(measured: pd.DataFrame) -> pd.DataFrame:
    """The mean of ``moved`` over pairs for each layer, start and metric: ``moved``, its 95% interval, ``n`` and ``p``.

    ``p`` is the chance of such a move without an effect, the picking of the largest among all layers and starts included.
    """
    rows = []
    for name, own in measured.groupby("metric", sort=False):
        wide = own.pivot_table(index=["layer", "steps_from"], columns="pair", values="moved", dropna=False)
        chances = picked_p(wide.to_numpy())
        for (layer, start), chance in zip(wide.index, chances, strict=True):
            mean, low, high, n = mean_interval(wide.loc[(layer, start)].to_numpy())
            moved = {"moved": mean, "low": low, "high": high, "p": chance}
            rows.append({"metric": name, "layer": layer, "steps_from": start, "n": n, **moved})
    return pd.DataFrame(rows)


def most_moving(measured: pd.DataFrame, name: str) -> list[str]:
    """Which layer, patched from the first of the starts on, moves the image most, and whether its lead is outside chance."""
    own = measured[(measured["metric"] == name) & (measured["steps_from"] == measured["steps_from"].min())]
    wide = own.pivot_table(index="layer", columns="pair", values="moved", dropna=False).dropna(axis=1)
    if wide.empty:
        if name == PLACE:
            return [
                f"{name}: no pair has one object in both images, in two places, that is also found with each layer patched."
            ]
        return [f"{name}: the two prompts' images don't differ in it."]
    lead, form = best(wide.to_numpy()[..., None]), Form(2)
    names = [f"layer {layer}" for layer in wide.index]
    said = f"{form(lead.value.mean)} of the way on average {in_words(lead.value, form, 'pair')}"
    if lead.value.mean <= 0:
        return [f"{name}: no layer moves the image toward the source; the most is {said}."]
    tied = len(lead.tied)
    first = f"{names[lead.leader]} moves the image most, {said}"
    if tied > 1:
        return [f"{name}: {first}, a tie of {tied} layers."]
    return [f"{name}: {line}" for line in (f"{first}.", *lead_lines(lead, names, form, "pair", "layer"))]
