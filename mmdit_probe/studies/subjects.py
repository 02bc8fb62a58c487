"""Two subjects in one image: how often both are drawn, plainly and with a loss on where the image looks at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import SamplingConfig
from ..datasets.scenes import scene
from ..families import Pipeline
from ..metrics.bootstrap import unit_means
from ..metrics.inference import FEWEST, mean_interval, outside_chance, two_sided_picked_p
from ..metrics.scene_reader import SceneReader, prompt_facts
from ..metrics.verdicts import Form, in_words
from ..probe.attention_loss import AttentionLoss
from ..storage.records import FORMAT
from ..storage.runs import RunFolder, Unit
from ..utils.progress import Progress
from .image_grid import PLAIN, generate_batch

_MOST = 1000
"""Test scenes that are looked through."""


@dataclass(frozen=True)
class SubjectPrompt:
    """A prompt, and the words of it that are to be kept apart."""

    prompt: str
    subjects: tuple[str, ...]


def two_object_prompts(count: int) -> list[SubjectPrompt]:
    """The first sentences of test scenes with two objects of different shapes and colors on one ground.

    `ValueError` if there are fewer than ``count``.
    """
    found: list[SubjectPrompt] = []
    for number in range(_MOST):
        shown = scene("test", number)
        names = {thing.shape for thing in shown.things}, {thing.color for thing in shown.things}
        if len(shown.things) == len(names[0]) == len(names[1]) == 2 and len(shown.grounds) == 1:
            subjects = tuple(f"{thing.color} {thing.shape}" for thing in shown.things)
            found.append(SubjectPrompt(shown.sentence(), subjects))
        if len(found) == count:
            return found
    raise ValueError(f"subjects: there are {len(found)} prompts, {count} are asked for")


@dataclass(frozen=True)
class LossVariant:
    """One way to steer: the settings of its `AttentionLoss`, and the name of its images."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SubjectImages:
    """All images of a run, by variant.

    Attributes:
        images: (prompts, seeds, height, width, 3) uint8 RGB.
        losses: (prompts, seeds) the loss at the last step that was moved; NaN of plain images.
    """

    images: dict[str, np.ndarray]
    losses: dict[str, np.ndarray]


def run_subjects(
    pipe: Pipeline,
    prompts: Sequence[SubjectPrompt],
    variants: Sequence[LossVariant],
    seeds: Sequence[int],
    generation: SamplingConfig,
    out: Path,
    model: str,
    progress: Progress | None = None,
) -> SubjectImages:
    """Each prompt, plainly and with the loss on its subjects; an interrupted run continues."""
    asked = [{"prompt": one.prompt, "subjects": list(one.subjects)} for one in prompts]
    tried = [{"name": variant.name, **variant.settings} for variant in variants]
    images: dict[str, list[np.ndarray]] = {PLAIN: [], **{variant.name: [] for variant in variants}}
    losses: dict[str, list[np.ndarray]] = {name: [] for name in images}
    tasks = list(product(enumerate(prompts), (LossVariant(PLAIN, {}), *variants)))
    units = [
        Unit(f"{variant.name}-prompt{number:04d}", partial(_drawn, pipe, prompt, variant, seeds, generation))
        for (number, prompt), variant in tasks
    ]
    with RunFolder.for_study(
        out, "subjects", model, generation, asked=asked, tried=tried, seeds=list(seeds)
    ).open() as run:
        for (_, variant), item in zip(tasks, run.finished(units, progress), strict=True):
            images[variant.name].append(item["image"].values)
            losses[variant.name].append(item["loss"].values)
    return SubjectImages(*({name: np.stack(own) for name, own in made.items()} for made in (images, losses)))


def _drawn(
    pipe: Pipeline, prompt: SubjectPrompt, variant: LossVariant, seeds: Sequence[int], generation: SamplingConfig
) -> xr.Dataset:
    images, losses = [], []
    for seed in seeds:
        moved: AbstractContextManager[AttentionLoss | None] = nullcontext()
        if variant.name != PLAIN:
            moved = AttentionLoss(pipe, list(prompt.subjects), **variant.settings)
        with moved as active:
            images.append(generate_batch(pipe, [prompt.prompt], seed, generation)[0])
        losses.append(np.nan if active is None else float(active.values[max(active.values)][0]))
    variables = {"image": (("seed", "row", "col", "rgb"), np.stack(images)), "loss": (("seed",), np.array(losses))}
    return xr.Dataset(variables, attrs={"format": FORMAT})


def measure_subjects(prompts: Sequence[SubjectPrompt], made: SubjectImages, reader: SceneReader) -> pd.DataFrame:
    """One row for each ``variant``, ``prompt`` number and ``seed`` number.

    ``both`` is 1 if a scene reader finds every colored object of the prompt, else 0; ``shapes`` likewise of any color;
    ``scene`` the share of all the prompt's facts that it finds; ``loss`` the loss at the last step that was moved.
    """
    rows = []
    for name, images in made.images.items():
        for seed in range(images.shape[1]):
            read = reader.read(images[:, seed])
            for number, (prompt, facts) in enumerate(zip(prompts, read, strict=True)):
                stated = prompt_facts(prompt.prompt)
                objects = {fact for fact in stated if len(fact) == 2}
                shapes = {fact[1:] for fact in objects}
                found = {
                    "both": float(objects <= facts),
                    "shapes": float(shapes <= facts),
                    "scene": len(stated & facts) / len(stated),
                }
                loss = float(made.losses[name][number, seed])
                rows.append({"variant": name, "prompt": number, "seed": seed, **found, "loss": loss})
    return pd.DataFrame(rows)


def subject_table(measured: pd.DataFrame) -> pd.DataFrame:
    """For each steered variant and measure: its mean, that of plain images, and the gain with its 95% interval over prompts.

    ``p`` is the chance of so large a gain or loss of any variant without an effect (`two_sided_picked_p`), of each measure alone.
    """
    rows = []
    wide = {name: own.set_index(["prompt", "seed"]) for name, own in measured.groupby("variant", sort=False)}
    plain = wide.pop(PLAIN)
    for measure in _SAID:
        gains = {name: (own[measure] - plain[measure]).unstack("seed").to_numpy() for name, own in wide.items()}
        chances = two_sided_picked_p(np.stack([unit_means(gain) for gain in gains.values()]))
        for (name, gained), p in zip(gains.items(), chances, strict=True):
            gain, low, high, n = mean_interval(gained)
            means = {PLAIN: plain[measure].mean(), "steered": wide[name][measure].mean()}
            found = {"gain": gain, "low": low, "high": high, "p": p}
            rows.append({"variant": name, "measure": measure, "n": n, **means, **found})
    return pd.DataFrame(rows)


_SAID = {
    "both": "of the images show both objects in their colors",
    "shapes": "of the images show both shapes",
    "scene": "of the prompts' facts are drawn",
}


def subject_lines(table: pd.DataFrame) -> list[str]:
    """What each variant changes, and whether that is outside chance, as the largest change of all variants."""
    lines = []
    percent, sign = Form(0, 100), Form(0, 100, sign=True)
    variants = table["variant"].nunique()
    among = f" among {variants} variants" if variants > 1 else ""
    for row in table.itertuples():
        found = mean_interval(np.full(1, row.gain))._replace(low=row.low, high=row.high, n=row.n)
        sure = "no verdict" if row.n < FEWEST else "outside chance" if outside_chance(row.p, row.n) else "within chance"
        lines.append(
            f"{row.variant}: {percent(row.steered)}% {_SAID[row.measure]}, {percent(row.plain)}% plainly: "
            f"{sign(row.gain)} points {in_words(found, sign, 'prompt')}: {sure}{among}."
        )
    return lines
