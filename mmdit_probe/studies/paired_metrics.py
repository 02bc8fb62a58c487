"""Metrics of images that were generated from the same seeds with and without a change, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..metrics.bootstrap import bootstrap_mean
from ..metrics.image_metrics import ImageMetric
from .image_grid import PLAIN, ImageGrid

AGAINST_PLAIN = ("clip_i", "dino")
"""Metrics that compare with the plain image; they are 1 for the plain image itself."""


def measure_images(grid: ImageGrid, metrics: Mapping[str, ImageMetric]) -> pd.DataFrame:
    """One row for each image: ``variant``, ``number`` of the prompt, ``prompt``, ``seed``, and a column for each metric."""
    plain = grid.images[PLAIN]
    measured = []
    for name, images in grid.images.items():
        for column, seed in enumerate(grid.seeds):
            found = {m: measure(images[:, column], plain[:, column], grid.prompts) for m, measure in metrics.items()}
            for number, prompt in enumerate(grid.prompts):
                values = {metric: float(numbers[number]) for metric, numbers in found.items()}
                measured.append({"variant": name, "number": number, "prompt": prompt, "seed": seed, **values})
    return pd.DataFrame(measured)


def drop_table(measured: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """What each variant's images lose of each metric in ``names``; ``measured`` is made by `measure_images`.

    One row for each variant and metric: ``variant``, ``metric``, ``mean``, and ``drop``, plain minus variant, with its 95%
    bootstrap interval ``low`` to ``high``. The drop is paired by prompt and seed; for metrics that compare with the plain
    image (CLIP-I, DINO) it is 1 minus the metric.
    """
    table = []
    for variant in measured["variant"].unique():
        for name in names:
            mean = np.nanmean(_by_prompt(measured, variant, name))
            drop, low, high = bootstrap_mean(paired_drops(measured, variant, name))
            table.append({"variant": variant, "metric": name, "mean": mean, "drop": drop, "low": low, "high": high})
    return pd.DataFrame(table)


def paired_drops(measured: pd.DataFrame, variant: str, name: str) -> np.ndarray:
    """(prompts, seeds): what each image of a variant loses of a metric compared with plain."""
    values = _by_prompt(measured, variant, name)
    return 1 - values if name in AGAINST_PLAIN else _by_prompt(measured, PLAIN, name) - values


def _by_prompt(measured: pd.DataFrame, variant: str, name: str) -> np.ndarray:
    """(prompts, seeds) values of a metric."""
    chosen = measured[measured["variant"] == variant]
    return chosen.pivot(index="number", columns="seed", values=name).to_numpy()
