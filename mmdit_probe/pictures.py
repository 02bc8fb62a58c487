"""Generating many pictures of one run: batches of prompts, each batch written as it is done."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from .configs import GenerationConfig
from .generation import generation_arguments
from .markup import grid, picture_tag
from .records import FORMAT
from .runs import RunFolder

Progress = Callable[[int, int], None]
PLAIN = "plain"


@dataclass(frozen=True)
class Variant:
    """One way to generate: its name in files and tables, and the context that the pipeline is called in."""

    name: str
    context: Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class Pictures:
    """All pictures of a run: ``images[variant]`` is (prompts, seeds, height, width, 3) uint8 RGB."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    images: dict[str, np.ndarray]

    def _repr_html_(self) -> str:
        """A row for each prompt and seed, a column for each variant, as notebooks show it."""
        rows = [
            [
                f"{html.escape(prompt)}<br>seed {seed}",
                *(picture_tag(made[i, j], name, 128) for name, made in self.images.items()),
            ]
            for i, prompt in enumerate(self.prompts)
            for j, seed in enumerate(self.seeds)
        ]
        return grid(rows, ["", *self.images])


def generate_batch(pipe: Any, prompts: Sequence[str], seed: int, generation: GenerationConfig) -> np.ndarray:
    """(prompts, height, width, 3) uint8 RGB; every prompt starts from the noise of ``seed``."""
    arguments = generation_arguments(pipe, generation)
    arguments["generator"] = [torch.Generator().manual_seed(seed) for _ in prompts]
    made = pipe(list(prompts), output_type="np", **arguments).images
    return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)


def make_pictures(
    pipe: Any,
    run: RunFolder,
    variants: Sequence[Variant],
    prompts: tuple[str, ...],
    seeds: tuple[int, ...],
    batch: int,
    generation: GenerationConfig,
    progress: Progress | None = None,
) -> Pictures:
    """Every variant of every prompt and seed; batches that ``run`` has already are read, not generated."""
    parts: dict[str, list[list[np.ndarray]]] = {variant.name: [[] for _ in seeds] for variant in variants}
    tasks = list(_tasks(len(seeds), len(prompts), batch, variants))
    for done, (column, start, variant) in enumerate(tasks):
        name = f"{variant.name}-seed{seeds[column]}-prompt{start:04d}"
        item = run.item(name)
        if item is None:
            with variant.context():
                images = generate_batch(pipe, prompts[start : start + batch], seeds[column], generation)
            item = xr.Dataset({"image": (("prompt", "row", "col", "rgb"), images)}, attrs={"format": FORMAT})
            run.write(name, item)
        parts[variant.name][column].append(item["image"].values)
        if progress is not None:
            progress(done + 1, len(tasks))
    joined = {name: np.stack([np.concatenate(column) for column in columns], 1) for name, columns in parts.items()}
    return Pictures(prompts, seeds, joined)


def _tasks(seeds: int, prompts: int, batch: int, variants: Sequence[Variant]) -> Iterator[tuple[int, int, Variant]]:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    for column in range(seeds):
        for start in range(0, prompts, batch):
            for variant in variants:
                yield column, start, variant
