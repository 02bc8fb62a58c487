"""Counts of an evaluation as tables: metrics by setting, by class and by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import xarray as xr

from ..metrics.inference import FEWEST, Interval, Lead
from ..metrics.iou import iou, mean_iou
from ..metrics.verdicts import Form, counted, few, in_words, lead_lines, listed
from .image_counts import ImageCounts
from .run import SETTING

METRICS = ("pacc", "macc", "miou", "miou_absent_zero")
WHICH_MIOU = (
    "mIoU is the mean over the classes of the ground truth (detectron2, the released evaluation); the tables' column "
    "miou_absent_zero also counts classes that are only predicted, as 0 (mmseg, and the released matching of regions)."
)

MATCHING_NAMES = {
    "names": "by names",
    "paper": "the paper's matching",
    "order-independent": "order-independent matching",
}
_PERCENT = Form(1, 100)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The tables of an evaluation; all metrics are fractions in [0, 1].

    The metrics are ``pacc``, the share of the labeled pixels that are right; ``macc``, the mean over the true classes of
    the share of their pixels that are right; ``miou``, the mean IoU of the true classes (detectron2, the released evaluation);
    and ``miou_absent_zero``, the mean IoU of the classes that are true or predicted, of which those that are only predicted
    count as 0 (mmseg). Counts are summed over images, not averaged.

    Attributes:
        settings: metrics of the whole set; one row for each matching, timestep (with its sigma), layer and head, with the
            number ``n`` of images and the 95% bootstrap interval of ``miou`` over them, ``low`` to ``high`` (NaN below 5).
        classes: ``iou`` and ``accuracy`` of each class that occurs; one row for each matching, timestep, layer, head and class.
        images: metrics of each image; one row for each image, matching, timestep, layer and head.
        trivial: metrics of the trivial baselines; one row for each matching and baseline. Empty unless ``config.trivial``.
        seconds: time for reading images, making masks and counting, without loading the model; summed over batches.
        leads: for each matching and timestep the best layer (or head), its lead, and whether that is outside chance.
    """

    settings: pd.DataFrame
    classes: pd.DataFrame
    images: pd.DataFrame
    trivial: pd.DataFrame
    seconds: float = float("nan")
    leads: Mapping[tuple[str, int], Lead] = field(default_factory=dict)


def tabulate(batches: Iterable[xr.Dataset]) -> Evaluation:
    """Sum the counts of `run_evaluation` batch by batch; `ValueError` if there is no batch."""
    total = trivial = None
    images, kept, seconds = [], ImageCounts(), 0.0
    for batch in batches:
        seconds += float(batch.get("seconds", float("nan")))
        counts = batch["counts"].astype(np.int64)
        kept.add(counts)
        summed = counts.sum("image")
        total = summed if total is None else total + summed
        images.append(_frame(_metrics(counts)))
        if "trivial_counts" in batch:
            summed = batch["trivial_counts"].astype(np.int64).sum("image")
            trivial = summed if trivial is None else trivial + summed
    if total is None:
        raise ValueError("evaluate: there is no image")
    intervals, leads = kept.inference(total)
    return Evaluation(
        _frame(_metrics(total).assign(intervals)),
        _frame(_class_metrics(total)).dropna(subset=["iou"]).reset_index(drop=True),
        pd.concat(images, ignore_index=True),
        pd.DataFrame() if trivial is None else _frame(_metrics(trivial)),
        seconds,
        leads,
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
    means = [
        xr.apply_ufunc(mean_iou, counts, kwargs={"absent_as_zero": zero}, input_core_dims=[["count", "class"]])
        for zero in (False, True)
    ]
    metrics = (tp / labeled.where(labeled > 0), by_class["accuracy"].mean("class"), *means)
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


def named_layers(evaluation: Evaluation, name: str) -> Evaluation:
    """The tables of layers that were put together: their ``name`` in place of a layer's number."""
    frames = {of: getattr(evaluation, of).assign(layer=name) for of in ("settings", "classes", "images")}
    return replace(evaluation, **frames)


def summary(evaluation: Evaluation, dataset: str, images: int, read: str = "") -> list[str]:
    """For each matching and timestep the best layer (or head) and its lead over the others; then the trivial baselines,
    the speed, and which mIoU it is. ``read`` says in words what masks rest on.
    """
    rest = f", masks by {read}" if read else ""
    lines = [f"{dataset}, {counted(images, 'image')}{rest}, mIoU in percent:"]
    best = _whole_system if "method" in evaluation.settings else _best_layers
    return [*lines, *best(evaluation), *_trivial(evaluation), *_speed(evaluation, images), WHICH_MIOU]


def _interval(row: pd.Series) -> str:
    return in_words(Interval(row["miou"], row["low"], row["high"], int(row["n"])), _PERCENT, "image")


def _whole_system(evaluation: Evaluation) -> list[str]:
    return [
        f"{MATCHING_NAMES[row['matching']]}, {row['method']}: {_percent(row['miou'])} {_interval(row)}, {_accuracies(row)}."
        for _, row in evaluation.settings.iterrows()
    ]


def _best_layers(evaluation: Evaluation) -> list[str]:
    lines = []
    grouped = evaluation.settings.groupby(["matching", "timestep", "sigma"], sort=False)
    for (matching, timestep, sigma), own in grouped:
        where = f"{MATCHING_NAMES[str(matching)]}, timestep {timestep} (sigma {sigma:.3f})"
        rows = own.reset_index(drop=True)
        lead = evaluation.leads.get((str(matching), int(timestep)))
        if lead is None:
            lines.append(f"{where}: no class is labeled, nothing can be compared.")
            continue
        names = [_layer(row) for _, row in rows.iterrows()]
        row, kind = rows.loc[lead.leader], "layer" if rows["head"].nunique() == 1 else "head"
        found = f"{_percent(row['miou'])} {_interval(row)}, {_accuracies(row)}"
        if len(lead.tied) > 1:
            tied = listed([names[place] for place in lead.tied])
            lines.append(f"{where}: {tied} tie for the best, {found}.")
        elif lead.second is None:
            lines.append(f"{where}: {names[lead.leader]} has {found}.")
        else:
            lines.append(f"{where}: {names[lead.leader]} has the highest mIoU of {len(names)}, {found}.")
            if lead.value.n < FEWEST:
                above = _percent(row["miou"] - rows.loc[lead.second, "miou"])
                lines.append(f"{where}: {above} above {names[lead.second]}; {few(lead.value.n, 'image')}, no verdict.")
            else:
                lines += [f"{where}: {line}" for line in lead_lines(lead, names, _PERCENT, "image", kind)]
    return lines


def _layer(row: pd.Series) -> str:
    name = row["layer"]
    return f"{name if isinstance(name, str) else f'layer {name}'}{_head(row)}"


def _accuracies(row: pd.Series) -> str:
    return f"pACC {_percent(row['pacc'])}, mACC {_percent(row['macc'])}"


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


def _head(row: pd.Series) -> str:
    return "" if row["head"] == "mean" else f" head {row['head']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
