"""Generating many images of one run: batches of prompts, each batch written as it is done."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..configs import SamplingConfig
from ..families import Pipeline, default_latent_side
from ..pipelines.generation import generation_arguments
from ..pipelines.image_size import native_size
from ..pipelines.modular_call import call_pipeline
from ..pipelines.vocabulary import unknown_words
from ..probe.probe import Probe
from ..readouts.region_mass import RegionMass
from ..storage.records import FORMAT
from ..storage.runs import RunFolder, Unit
from ..utils.html import grid, image_tag
from ..utils.memory import check_room, run_in_batches
from ..utils.progress import Progress

PLAIN = "plain"


@dataclass(frozen=True)
class Variant:
    """One way to generate: its name in files, the context that the pipeline is called in with a seed, and its value in tables."""

    name: str
    context: Callable[[int], AbstractContextManager[Any]]
    value: Any = None


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """All images of a run.

    Attributes:
        prompts: their prompts.
        seeds: the seeds of each prompt.
        images: by variant, (prompts, seeds, height, width, 3) uint8 RGB.
        axis: what the variants differ in: "layer", "head", "step", "edit", "scale" or "side".
        values: the layer, scale or side of each variant but the plain one.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    images: dict[str, np.ndarray]
    axis: str = "layer"
    values: dict[str, Any] = field(default_factory=dict)

    def first_seed(self, most: int) -> dict[str, np.ndarray]:
        """By variant, the images of the first seed and at most so many prompts, (prompts, height, width, 3) uint8 RGB."""
        return {name: images[:most, 0] for name, images in self.images.items()}

    def _repr_html_(self) -> str:
        """A row for each prompt and seed, a column for each variant, as notebooks show it."""
        rows = [
            [
                f"{html.escape(prompt)}<br>seed {seed}",
                *(image_tag(made[i, j], name, 128) for name, made in self.images.items()),
            ]
            for i, prompt in enumerate(self.prompts)
            for j, seed in enumerate(self.seeds)
        ]
        return grid(rows, ["", *self.images])


def generate_batch(pipe: Pipeline, prompts: Sequence[str], seed: int, generation: SamplingConfig) -> np.ndarray:
    """(prompts, height, width, 3) uint8 RGB; every prompt starts from the noise of ``seed``.

    `ValueError` where images are not finite, with the layer and step where that began.
    """
    made = _made(pipe, prompts, seed, generation, "np")
    if np.isfinite(made).all():
        return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)
    with Probe(pipe, [RegionMass()]):  # refuses what is not finite
        _made(pipe, prompts, seed, generation, "latent")
    raise ValueError(
        f"the images of seed {seed} are not finite, though every layer's attention is; "
        f"take --dtype fp32, and a --guidance-scale of the size that the model is made for"
    )


def _made(pipe: Pipeline, prompts: Sequence[str], seed: int, generation: SamplingConfig, form: str) -> Any:
    arguments = generation_arguments(pipe, generation)
    arguments["generator"] = [torch.Generator().manual_seed(seed) for _ in prompts]
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is not finite: looked for afterwards
        return call_pipeline(pipe, prompts, output_type=form, **arguments).images


def generate_grid(
    pipe: Pipeline,
    run: RunFolder,
    variants: Sequence[Variant],
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    batch: int,
    generation: SamplingConfig,
    progress: Progress | None = None,
    *,
    axis: str,
) -> ImageGrid:
    """Every variant of every prompt and seed; batches that ``run`` has already are read, not generated.

    ``axis`` says what the variants differ in, see `ImageGrid`. Batches are shared among the processes of the run.
    """
    if run.share.first:
        _check_room(pipe, len(variants) * len(prompts) * len(seeds), generation)
    parts: dict[str, list[list[np.ndarray]]] = {variant.name: [[] for _ in seeds] for variant in variants}
    tasks = list(_tasks(len(seeds), len(prompts), batch, variants))

    def made(column: int, start: int, variant: Variant) -> xr.Dataset:
        chosen = prompts[start : start + batch]
        images, at_once = run_in_batches(partial(_generated, pipe, variant, seeds[column], generation), chosen)
        unknown = ", ".join(unknown_words(pipe, chosen))
        attrs = {"format": FORMAT, "images_at_once": at_once, "unknown_words": unknown}
        return xr.Dataset({"image": (("prompt", "row", "col", "rgb"), np.stack(images))}, attrs=attrs)

    units = [
        Unit(f"{variant.name}-seed{seeds[column]}-prompt{start:04d}", partial(made, column, start, variant))
        for column, start, variant in tasks
    ]
    for (column, _, variant), item in zip(tasks, run.finished(units, progress), strict=True):
        parts[variant.name][column].append(item["image"].values)
    joined = {name: np.stack([np.concatenate(column) for column in columns], 1) for name, columns in parts.items()}
    values = {variant.name: variant.value for variant in variants if variant.name != PLAIN}
    return ImageGrid(prompts, seeds, joined, axis, values)


def _generated(
    pipe: Pipeline, variant: Variant, seed: int, generation: SamplingConfig, prompts: Sequence[str]
) -> list[np.ndarray]:
    with variant.context(seed):
        return list(generate_batch(pipe, prompts, seed, generation))


def _check_room(pipe: Pipeline, images: int, generation: SamplingConfig) -> None:
    """All images are kept until they are scored; the check is left out where the model's size is not known."""
    if default_latent_side(pipe) is None:
        return
    height, width = (side or native_size(pipe) for side in (generation.height, generation.width))
    kept = images * height * width * 3
    check_room(f"{images} images", kept, 2 * kept, "take fewer prompts, seeds or layers at a time")


def _tasks(seeds: int, prompts: int, batch: int, variants: Sequence[Variant]) -> Iterator[tuple[int, int, Variant]]:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    for column in range(seeds):
        for start in range(0, prompts, batch):
            for variant in variants:
                yield column, start, variant
