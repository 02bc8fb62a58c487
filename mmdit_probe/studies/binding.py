"""Words bound to places: images with and without, and how much of each object stands where it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import BindConfig
from ..datasets.shapes import COLORS
from ..edits import Regions
from ..edits.places import Place, place_mask
from ..families import Pipeline
from ..metrics.inference import FEWEST, mean_interval
from ..metrics.object_place import FEWEST_PIXELS, color_mask
from ..metrics.scene_reader import SceneReader
from ..metrics.verdicts import Form, in_words
from ..pipelines.layers import chosen_layers
from ..probe.probe import Probe
from ..storage.digests import digest
from ..storage.records import FORMAT
from ..storage.runs import RunFolder, Unit
from ..utils.progress import Progress
from .given_places import mask_files
from .image_grid import PLAIN, generate_batch

BOUND = "bound"
_HALVES = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 1, 1), "top": (0, 0, 1, 0.5), "bottom": (0, 0.5, 1, 1)}
_SIDES = (("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top"))
_SHAPES, _COLORS, _GROUNDS = (
    ("circle", "square", "triangle", "star"),
    ("red", "blue", "green", "purple"),
    ("sand", "snow"),
)


@dataclass(frozen=True)
class Layout:
    """A prompt, and the places of words of it."""

    prompt: str
    regions: Mapping[str, Place]


def built_in_layouts(count: int) -> list[Layout]:
    """Layouts for embedded models: two shapes of two colors on a ground, each in its half of the image.

    >>> built_in_layouts(1)
    [Layout(prompt='a blue star and a red circle on sand', regions={'blue star': (0, 0, 0.5, 1), 'red circle': (0.5, 0, 1, 1)})]
    """
    return [_layout(number) for number in range(count)]


def _layout(number: int) -> Layout:
    stream = np.random.default_rng([20261126, number])
    shapes, colors = (stream.choice(names, 2, replace=False).tolist() for names in (_SHAPES, _COLORS))
    things = [f"{color} {shape}" for color, shape in zip(colors, shapes, strict=True)]
    sides = _SIDES[number % len(_SIDES)]
    prompt = f"a {things[0]} and a {things[1]} on {stream.choice(_GROUNDS)}"
    return Layout(prompt, {thing: _HALVES[side] for thing, side in zip(things, sides, strict=True)})


def run_binding(
    pipe: Pipeline,
    config: BindConfig,
    layouts: Sequence[Layout],
    out: Path,
    model: str,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """By "plain" and "bound", (layouts, seeds, height, width, 3) uint8 RGB; an interrupted run continues."""
    config = replace(config, layers=chosen_layers(pipe, config.layers))
    steps = config.generation.steps if config.bind_steps is None else config.bind_steps
    where = {"layer": chosen_layers(pipe, config.layers), "steps": range(steps)}
    edits = [Regions(layout.regions, config.binding == "hard", strength=config.strength, **where) for layout in layouts]
    made: dict[str, list[np.ndarray]] = {PLAIN: [], BOUND: []}
    asked = [{"prompt": one.prompt, "regions": list(one.regions)} for one in layouts]
    tasks = list(product(range(len(layouts)), made))

    def drawn(number: int, name: str) -> xr.Dataset:
        layout, context = layouts[number], nullcontext() if name == PLAIN else Probe(pipe, [], edits=[edits[number]])
        with context:
            images = [generate_batch(pipe, [layout.prompt], seed, config.generation)[0] for seed in config.seeds]
        return xr.Dataset({"image": (("seed", "row", "col", "rgb"), np.stack(images))}, attrs={"format": FORMAT})

    units = [Unit(f"{name}-layout{number:04d}", partial(drawn, number, name)) for number, name in tasks]
    files = mask_files(config.region)
    masks = {"mask_content": digest(files)} if files else {}
    with RunFolder.for_study(out, "bind", model, config, asked=asked, **masks).open() as run:
        for (_, name), item in zip(tasks, run.finished(units, progress), strict=True):
            made[name].append(item["image"].values)
    return {name: np.stack(images) for name, images in made.items()}


def drawn_layout(layout: Layout, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB: the places, in the color that a word names, else in grays; white where there is none."""
    shown = np.full((height, width, 3), 255.0)
    for number, (word, place) in enumerate(layout.regions.items()):
        mask = place_mask(word, place)
        rows, cols = (np.arange(size) * of // size for size, of in ((height, mask.shape[0]), (width, mask.shape[1])))
        color = _color_of(word)
        paint = np.full(3, 90 + 60 * (number % 3)) if color is None else 255 * np.asarray(COLORS[color])
        shown = np.where(mask[rows][:, cols, None] > 0.5, paint, shown)
    return shown.astype(np.uint8)


def _color_of(word: str) -> str | None:
    """The first color among the words of a phrase."""
    return next((part for part in word.lower().split() if part in COLORS), None)


def inside_share(image: np.ndarray, word: str, place: Place) -> float:
    """The share of the pixels of the word's color that are inside its place, in [0, 1].

    NaN if the word names no color or hardly any pixel has it. For scenes, whose grounds have other colors.
    """
    color, mask = _color_of(word), place_mask(word, place)
    if color is None:
        return float("nan")
    rows, cols = (np.arange(size) * of // size for size, of in zip(image.shape[:2], mask.shape, strict=True))
    own = color_mask(image, color)
    return float(mask[rows][:, cols][own].mean()) if own.sum() >= FEWEST_PIXELS else float("nan")


def measure_binding(layouts: Sequence[Layout], images: Mapping[str, np.ndarray], reader: SceneReader) -> pd.DataFrame:
    """One row for each ``layout``, ``seed`` number and ``side`` ("plain" or "bound"), with two metrics.

    ``inside`` is the mean over the layout's objects of `inside_share`, NaN unless all are drawn; ``scene`` the share of the
    prompt's facts that the scene reader finds.
    """
    rows = []
    for side, made in images.items():
        for seed in range(made.shape[1]):
            facts = reader.fact_share(made[:, seed], [layout.prompt for layout in layouts])
            for number, layout in enumerate(layouts):
                shares = [inside_share(made[number, seed], word, place) for word, place in layout.regions.items()]
                measured = {"inside": float(np.mean(shares)), "scene": float(facts[number])}
                rows.append({"side": side, "layout": number, "prompt": layout.prompt, "seed": seed, **measured})
    return pd.DataFrame(rows)


def binding_table(measured: pd.DataFrame) -> pd.DataFrame:
    """For each metric the means of "plain" and "bound" images, and the gain with its 95% interval over layouts, and ``n``.

    Only layouts that have a number on both sides count.
    """
    rows = []
    for metric in ("inside", "scene"):
        sides = {
            side: own.pivot(index="layout", columns="seed", values=metric) for side, own in measured.groupby("side")
        }
        plain, bound = sides[PLAIN].to_numpy(), sides[BOUND].to_numpy()
        gain, low, high, n = mean_interval(_layout_means(bound - plain))
        both = ~np.isnan(bound - plain)
        means = {
            name: float(np.mean(made[both])) if both.any() else np.nan
            for name, made in ((PLAIN, plain), (BOUND, bound))
        }
        rows.append({"metric": metric, "n": n, **means, "gain": gain, "low": low, "high": high})
    return pd.DataFrame(rows)


def _layout_means(values: np.ndarray) -> np.ndarray:
    """(layouts,): the mean over seeds without NaN; NaN if there is none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(1)
    return np.where(known.any(1), total / known.sum(1).clip(min=1), np.nan)


_SAID = {
    "inside": "of the objects' pixels stand where they were asked",
    "scene": "of the prompts' facts are drawn",
}


def binding_lines(table: pd.DataFrame) -> list[str]:
    """What binding changes, and whether that is outside chance."""
    lines = []
    for row in table.itertuples():
        percent, sign = Form(0, 100), Form(0, 100, sign=True)
        found = mean_interval(np.full(1, row.gain))._replace(mean=row.gain, low=row.low, high=row.high, n=row.n)
        if row.n == 0:
            lines.append(f"{row.metric}: no layout has both objects drawn with and without binding.")
            continue
        sure = "no verdict" if row.n < FEWEST else "outside chance" if found.excludes_zero else "within chance"
        lines.append(
            f"{percent(row.bound)}% {_SAID[row.metric]}, {percent(row.plain)}% without: {sign(row.gain)} points "
            f"{in_words(found, sign, 'layout')}: {sure}."
        )
    return lines
