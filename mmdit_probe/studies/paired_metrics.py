"""Metrics of images that were generated from the same seeds with and without a change, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.bootstrap import unit_means
from ..metrics.image_metrics import ImageMetric
from ..metrics.inference import mean_interval, picked_p
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid

AGAINST_PLAIN = ("clip_i", "dino")
"""Metrics that compare with the plain image; they are 1 for the plain image itself."""
PLAIN_VALUES: dict[str, Any] = {
    "layer": None,
    "scale": 0.0,
    "side": "before",
    "head": PLAIN,
    "step": PLAIN,
    "edit": PLAIN,
}
"""What the plain images have in the column that tells the variants apart; for layers it is missing."""


def measure_images(
    grid: ImageGrid, metrics: Mapping[str, ImageMetric], progress: Progress | None = None
) -> pd.DataFrame:
    """One row for each image: what was changed, ``number`` of the prompt, ``prompt``, ``seed``, and a column for each metric.

    What was changed stands in the first column: ``layer`` (the edited one; missing for plain images), ``head``,
    ``step`` or ``edit`` (such as "7.2", "7: 0-6" or "Uniform"; "plain"), ``scale`` (0 for plain images) or ``side``
    ("before" and "after"), as in ``grid.axis``. ``progress`` is told how many images are scored.
    """
    plain = grid.images[PLAIN]
    measured: list[dict[str, Any]] = []
    for name, images in grid.images.items():
        for column, seed in enumerate(grid.seeds):
            found = {m: measure(images[:, column], plain[:, column], grid.prompts) for m, measure in metrics.items()}
            for number, prompt in enumerate(grid.prompts):
                values = {metric: float(numbers[number]) for metric, numbers in found.items()}
                changed = {grid.axis: grid.values.get(name, PLAIN_VALUES[grid.axis])}
                measured.append({**changed, "number": number, "prompt": prompt, "seed": seed, **values})
            if progress is not None:
                progress(len(measured), len(grid.images) * len(grid.seeds) * len(grid.prompts))
    return _typed(pd.DataFrame(measured))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Layers as integers, of which plain's is missing."""
    return table.astype({"layer": "Int64"}) if "layer" in table else table


def drop_table(measured: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """What the changed images lose of each metric in ``names``; ``measured`` is made by `measure_images`.

    One row for each value of the first column (plain included) and metric: ``metric``, ``n`` prompts, ``mean``, and
    ``drop``, plain minus changed, averaged over seeds and prompts, with its 95% interval ``low`` to ``high`` over prompts
    (NaN below 5 prompts). ``p`` is the chance of such a drop without an effect, the picking of the largest among all the
    changes of the table included. The drop is paired by prompt and seed; for metrics that compare with the plain image
    (CLIP-I, DINO) it is 1 minus the metric, which can't fall below 0: its ``p`` is NaN.
    """
    key = measured.columns[0]
    table = []
    for name in names:
        values, drops = paired_drops(measured, name)
        plain = np.zeros_like(next(iter(drops.values())))
        chances = np.full(len(drops), np.nan)
        if name not in AGAINST_PLAIN:
            chances = picked_p(np.stack([unit_means(drop) for drop in drops.values()]))
        rows = [(PLAIN_VALUES[key], _plain(measured, name), plain, np.nan)]
        rows += [(value, values[value], drops[value], chance) for value, chance in zip(drops, chances, strict=True)]
        for value, own, drop, chance in rows:
            mean, low, high, n = mean_interval(drop)
            whole = float(np.nanmean(unit_means(own))) if n else float("nan")
            found = {"mean": whole, "drop": mean, "low": low, "high": high, "p": chance}
            table.append({key: value, "metric": name, "n": n, **found})
    return _typed(pd.DataFrame(table))


def paired_drops(measured: pd.DataFrame, name: str) -> tuple[dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    """By changed value: the metric of its images, and what each loses compared with plain, both (prompts, seeds)."""
    key = measured.columns[0]
    changed = measured[~_is_plain(measured)]
    wide = changed.set_index([key, "number", "seed"])[name].unstack("seed").sort_index()
    values = {value: wide.loc[value].to_numpy(float) for value in changed[key].unique()}
    if name in AGAINST_PLAIN:
        return values, {value: 1 - own for value, own in values.items()}
    plain = _plain(measured, name)
    return values, {value: plain - own for value, own in values.items()}


def _is_plain(measured: pd.DataFrame) -> pd.Series:
    column, plain = measured.iloc[:, 0], PLAIN_VALUES[measured.columns[0]]
    return column.isna() if plain is None else column == plain


def _plain(measured: pd.DataFrame, name: str) -> np.ndarray:
    """(prompts, seeds): a metric of the plain images."""
    plain = measured[_is_plain(measured)]
    return plain.pivot(index="number", columns="seed", values=name).to_numpy(float)
