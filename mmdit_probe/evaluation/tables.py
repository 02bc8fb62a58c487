"""Counts of an evaluation as tables: scores by view, by class and by image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr

from .run import VIEW

SCORES = ("pacc", "macc", "miou")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """``views``: a row for each matching, timestep, layer and head, scores of the whole set; ``classes``: one for each of
    these and each class that occurs; ``images``: one for each of these and each image; ``trivial``: one for each
    matching and baseline, empty unless asked for. All scores are in [0, 1]. ``seconds`` is what reading, masks and
    scoring took, without loading, summed over the batches.

    ``pacc`` is the share of labeled pixels that are right, ``macc`` the mean of it over the true classes, ``miou`` the
    mean intersection over union of the classes that are true or predicted somewhere.
    """

    views: pd.DataFrame
    classes: pd.DataFrame
    images: pd.DataFrame
    trivial: pd.DataFrame
    seconds: float = float("nan")


def tabulate(batches: Iterable[xr.Dataset]) -> Evaluation:
    """Sum the counts batch by batch."""
    total = trivial = None
    images, seconds = [], 0.0
    for batch in batches:
        seconds += float(batch.get("seconds", float("nan")))
        summed = batch["counts"].astype(np.int64).sum("image")
        total = summed if total is None else total + summed
        images.append(_frame(_scores(batch["counts"].astype(np.int64))))
        if "trivial_counts" in batch:
            summed = batch["trivial_counts"].astype(np.int64).sum("image")
            trivial = summed if trivial is None else trivial + summed
    if total is None:
        raise ValueError("evaluate: there is no image")
    views = _frame(_scores(total))
    return Evaluation(
        views,
        _frame(_class_metrics(total)).dropna(subset=["iou"]).reset_index(drop=True),
        pd.concat(images, ignore_index=True),
        pd.DataFrame() if trivial is None else _frame(_scores(trivial)),
        seconds,
    )


def _class_metrics(counts: xr.DataArray) -> xr.Dataset:
    """``iou`` and ``accuracy`` by class; NaN where a class does not occur."""
    tp, fp, fn = (counts.sel(count=name, drop=True) for name in ("tp", "fp", "fn"))
    union, truth = tp + fp + fn, tp + fn
    return xr.Dataset({"iou": tp / union.where(union > 0), "accuracy": tp / truth.where(truth > 0)})


def _scores(counts: xr.DataArray) -> xr.Dataset:
    by_class = _class_metrics(counts)
    tp, fn = counts.sel(count="tp", drop=True).sum("class"), counts.sel(count="fn", drop=True).sum("class")
    labeled = tp + fn
    scores = (tp / labeled.where(labeled > 0), by_class["accuracy"].mean("class"), by_class["iou"].mean("class"))
    return xr.Dataset(dict(zip(SCORES, scores, strict=True)))


def _frame(scores: xr.Dataset) -> pd.DataFrame:
    """One row a combination of labels, sigma beside the timestep."""
    frame = scores.to_dataframe().reset_index()
    order = [
        name for name in ("image", "matching", "baseline", "timestep", "sigma", *VIEW[1:], "class") if name in frame
    ]
    return frame[[*order, *scores.data_vars]]


def without_views(evaluation: Evaluation, method: str) -> Evaluation:
    """The tables of a whole system: its name in place of the one timestep, layer and head."""

    def of(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame.drop(columns=["timestep", "sigma", "layer", "head"])
        kept.insert(0, "method", method)
        return kept

    frames = {name: of(getattr(evaluation, name)) for name in ("views", "classes", "images")}
    return replace(evaluation, **frames)


def summary(evaluation: Evaluation, dataset: str, images: int) -> list[str]:
    """For each matching and timestep the best layer, or head, with its lead over the next layer; then the baselines, and
    how fast it was."""
    lines = [f"{dataset}, {images} images, mIoU in percent:"]
    if "method" in evaluation.views:
        for _, row in evaluation.views.iterrows():
            lines.append(
                f"{MATCHING_NAMES[row['matching']]}, {row['method']}: {_hundred(row['miou'])} {_accuracies(row)}"
            )
        return [*lines, *_trivial(evaluation), *_speed(evaluation, images)]
    for (matching, timestep, sigma), views in evaluation.views.groupby(["matching", "timestep", "sigma"], sort=False):
        best = views.loc[views["miou"].idxmax()]
        lines.append(
            f"{MATCHING_NAMES[str(matching)]}, timestep {timestep} (sigma {sigma:.3f}): layer {best['layer']}{_head(best)} is "
            f"best, {_hundred(best['miou'])} {_accuracies(best)}{_lead(best, views)}"
        )
    return [*lines, *_trivial(evaluation), *_speed(evaluation, images)]


def _accuracies(row: pd.Series) -> str:
    return f"(pACC {_hundred(row['pacc'])}, mACC {_hundred(row['macc'])})"


def _trivial(evaluation: Evaluation) -> list[str]:
    rows = (row for _, row in evaluation.trivial.iterrows())
    return [f"{MATCHING_NAMES[row['matching']]}, {row['baseline']}: {_hundred(row['miou'])}" for row in rows]


def _speed(evaluation: Evaluation, images: int) -> list[str]:
    """Nothing where the seconds are not known."""
    if not evaluation.seconds > 0:
        return []
    return [f"{images / evaluation.seconds:.3g} images a second, from reading to scoring."]


def _lead(best: pd.Series, views: pd.DataFrame) -> str:
    others = views[views["layer"] != best["layer"]]
    if not len(others):
        return "."
    second = others.loc[others["miou"].idxmax()]
    return f", {_hundred(best['miou'] - second['miou'])} above layer {second['layer']}{_head(second)}."


MATCHING_NAMES = {
    "names": "by names",
    "paper": "the paper's matching",
    "order-independent": "order-independent matching",
}


def _head(row: pd.Series) -> str:
    return "" if row["head"] == "mean" else f" head {row['head']}"


def _hundred(share: float) -> str:
    return f"{100 * share:.1f}"
