"""Counts of an evaluation as tables: metrics by setting, by class and by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr

from ..metrics.iou import iou
from .run import SETTING

METRICS = ("pacc", "macc", "miou")
MATCHING_NAMES = {
    "names": "by names",
    "paper": "the paper's matching",
    "order-independent": "order-independent matching",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The tables of an evaluation; all metrics are fractions in [0, 1].

    The metrics are ``pacc``, the share of the labeled pixels that are right; ``macc``, the mean over the true classes of
    the share of their pixels that are right; and ``miou``, the mean IoU of the classes that are true or predicted
    somewhere.

    Attributes:
        settings: metrics of the whole set; one row for each matching, timestep (with its sigma), layer and head.
        classes: ``iou`` and ``accuracy`` of each class that occurs; one row for each matching, timestep, layer, head and class.
        images: metrics of each image; one row for each image, matching, timestep, layer and head.
        trivial: metrics of the trivial baselines; one row for each matching and baseline. Empty unless ``config.trivial``.
        seconds: time for reading images, making masks and counting, without loading the model; summed over batches.
    """

    settings: pd.DataFrame
    classes: pd.DataFrame
    images: pd.DataFrame
    trivial: pd.DataFrame
    seconds: float = float("nan")


def tabulate(batches: Iterable[xr.Dataset]) -> Evaluation:
    """Sum the counts of `run_evaluation` batch by batch; `ValueError` if there is no batch."""
    total = trivial = None
    images, seconds = [], 0.0
    for batch in batches:
        seconds += float(batch.get("seconds", float("nan")))
        summed = batch["counts"].astype(np.int64).sum("image")
        total = summed if total is None else total + summed
        images.append(_frame(_metrics(batch["counts"].astype(np.int64))))
        if "trivial_counts" in batch:
            summed = batch["trivial_counts"].astype(np.int64).sum("image")
            trivial = summed if trivial is None else trivial + summed
    if total is None:
        raise ValueError("evaluate: there is no image")
    return Evaluation(
        _frame(_metrics(total)),
        _frame(_class_metrics(total)).dropna(subset=["iou"]).reset_index(drop=True),
        pd.concat(images, ignore_index=True),
        pd.DataFrame() if trivial is None else _frame(_metrics(trivial)),
        seconds,
    )


def _class_metrics(counts: xr.DataArray) -> xr.Dataset:
    """``iou`` and ``accuracy`` by class; NaN where a class does not occur."""
    tp, fp, fn = (counts.sel(count=name, drop=True) for name in ("tp", "fp", "fn"))
    truth = tp + fn
    return xr.Dataset({"iou": xr.apply_ufunc(iou, tp, fp, fn), "accuracy": tp / truth.where(truth > 0)})


def _metrics(counts: xr.DataArray) -> xr.Dataset:
    by_class = _class_metrics(counts)
    tp, fn = counts.sel(count="tp", drop=True).sum("class"), counts.sel(count="fn", drop=True).sum("class")
    labeled = tp + fn
    metrics = (tp / labeled.where(labeled > 0), by_class["accuracy"].mean("class"), by_class["iou"].mean("class"))
    return xr.Dataset(dict(zip(METRICS, metrics, strict=True)))


def _frame(metrics: xr.Dataset) -> pd.DataFrame:
    """One row for each combination of coordinates, with sigma next to the timestep."""
    frame = metrics.to_dataframe().reset_index()
    order = [
        name for name in ("image", "matching", "baseline", "timestep", "sigma", *SETTING[1:], "class") if name in frame
    ]
    return frame[[*order, *metrics.data_vars]]


def without_settings(evaluation: Evaluation, method: str) -> Evaluation:
    """The tables of a whole system: a column ``method`` in place of its only timestep, layer and head."""

    def of(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame.drop(columns=["timestep", "sigma", "layer", "head"])
        kept.insert(0, "method", method)
        return kept

    frames = {name: of(getattr(evaluation, name)) for name in ("settings", "classes", "images")}
    return replace(evaluation, **frames)


def summary(evaluation: Evaluation, dataset: str, images: int) -> list[str]:
    """For each matching and timestep the best layer (or head) and its lead over the next layer; then the trivial baselines,
    and the speed.
    """
    lines = [f"{dataset}, {images} images, mIoU in percent:"]
    best = _whole_system if "method" in evaluation.settings else _best_layers
    return [*lines, *best(evaluation), *_trivial(evaluation), *_speed(evaluation, images)]


def _whole_system(evaluation: Evaluation) -> list[str]:
    return [
        f"{MATCHING_NAMES[row['matching']]}, {row['method']}: {_percent(row['miou'])} {_accuracies(row)}"
        for _, row in evaluation.settings.iterrows()
    ]


def _best_layers(evaluation: Evaluation) -> list[str]:
    lines = []
    grouped = evaluation.settings.groupby(["matching", "timestep", "sigma"], sort=False)
    for (matching, timestep, sigma), own in grouped:
        best = own.loc[own["miou"].idxmax()]
        lines.append(
            f"{MATCHING_NAMES[str(matching)]}, timestep {timestep} (sigma {sigma:.3f}): layer {best['layer']}{_head(best)} is "
            f"best, {_percent(best['miou'])} {_accuracies(best)}{_lead(best, own)}"
        )
    return lines


def _accuracies(row: pd.Series) -> str:
    return f"(pACC {_percent(row['pacc'])}, mACC {_percent(row['macc'])})"


def _trivial(evaluation: Evaluation) -> list[str]:
    return [
        f"{MATCHING_NAMES[row['matching']]}, {row['baseline']}: {_percent(row['miou'])}"
        for _, row in evaluation.trivial.iterrows()
    ]


def _speed(evaluation: Evaluation, images: int) -> list[str]:
    """No line if the seconds are not known."""
    if not evaluation.seconds > 0:
        return []
    return [f"{images / evaluation.seconds:.3g} images a second, from reading to counting."]


def _lead(best: pd.Series, settings: pd.DataFrame) -> str:
    others = settings[settings["layer"] != best["layer"]]
    if not len(others):
        return "."
    second = others.loc[others["miou"].idxmax()]
    return f", {_percent(best['miou'] - second['miou'])} above layer {second['layer']}{_head(second)}."


def _head(row: pd.Series) -> str:
    return "" if row["head"] == "mean" else f" head {row['head']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
