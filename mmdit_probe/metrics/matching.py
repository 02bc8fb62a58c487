"""Scores of regions without names: each image's regions are matched to its classes first (Seg4Diff, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Labels = np.ndarray | Tensor


class MatchedMetrics(NamedTuple):
    """Sums over a data set after matching: ``tp``, ``fp``, ``fn`` are pixels by class, (classes,).

    ``total`` counts the labeled pixels. ``miou`` in [0, 1] is the mean of tp / (tp + fp + fn) over the classes for
    which that is not 0 / 0 (NaN if there is none), ``accuracy`` in [0, 1] the share of matched pixels.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    total: int
    miou: float
    accuracy: float


def from_counts(counts: np.ndarray, total: int) -> MatchedMetrics:
    """The scores of ``counts`` (3, classes): true positives, false positives, false negatives."""
    tp, fp, fn = counts
    union = tp + fp + fn
    iou = tp[union > 0] / union[union > 0]
    miou = float(iou.mean()) if len(iou) else float("nan")
    return MatchedMetrics(tp, fp, fn, total, miou, float(tp.sum() / total) if total else float("nan"))


def sum_matched(parts: Iterable[MatchedMetrics]) -> MatchedMetrics:
    """The scores of several sets of images together."""
    listed = list(parts)
    counts = np.sum([[part.tp, part.fp, part.fn] for part in listed], 0)
    return from_counts(counts, sum(part.total for part in listed))


def matched_metrics(labels: Labels, predictions: Labels, n_classes: int, *, ignore: int = 255) -> MatchedMetrics:
    """The paper's protocol: per image, classes and regions are paired one to one with the largest overlap in all.

    Args:
        labels: (images, height, width) or (height, width), NumPy or torch on the CPU; class numbers or ``ignore``.
        predictions: the same shape, region numbers from 0 on; they mean nothing across images.
        n_classes: number of classes of the data set; all take part in every image's matching, also absent ones.

    A region left over is paired with some class that it does not overlap, and its pixels become that class's false
    positives: the scores depend on how the classes are numbered. `matched_metrics_free` does not.
    """
    return _sum_images(labels, predictions, n_classes, ignore, free=False)


def matched_metrics_free(labels: Labels, predictions: Labels, n_classes: int, *, ignore: int = 255) -> MatchedMetrics:
    """The order-independent variant of `matched_metrics`: the numbering of classes and regions changes nothing.

    Three things differ. Only classes present in an image take part in its matching; a pair that does not overlap is no
    pair, so that a region left over is missing from its true classes (false negatives) and nobody's false positive; and
    classes and regions stand in the order of their first pixel, row by row, so that a tie is broken by the image.
    """
    return _sum_images(labels, predictions, n_classes, ignore, free=True)


def _sum_images(labels: Labels, predictions: Labels, n_classes: int, ignore: int, free: bool) -> MatchedMetrics:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim not in (2, 3):
        raise ValueError(
            f"matched_metrics: labels and predictions must be (images, height, width) alike, got {labels.shape} and "
            f"{predictions.shape}"
        )
    kept = labels[labels != ignore]
    if kept.size and (kept.min() < 0 or kept.max() >= n_classes):
        raise ValueError(
            f"matched_metrics: labels must be in 0 to {n_classes - 1} or {ignore}, got {kept.min()} to {kept.max()}"
        )
    if predictions.size and predictions.min() < 0:
        raise ValueError(f"matched_metrics: region numbers must be 0 or more, got {predictions.min()}")
    shape = (-1, *labels.shape[-2:])
    counts = np.zeros((3, n_classes))
    for truth, guess in zip(labels.reshape(shape), predictions.reshape(shape), strict=True):
        valid = truth != ignore
        counts += _one_image(truth[valid].astype(np.int64), guess[valid].astype(np.int64), n_classes, free)
    return from_counts(counts, int(kept.size))


def _one_image(truth: np.ndarray, guess: np.ndarray, n_classes: int, free: bool) -> np.ndarray:
    """(3, classes): true positives, false positives and false negatives of one image's labeled pixels."""
    counts = np.zeros((3, n_classes))
    if not truth.size:
        return counts
    classes = _by_first_pixel(truth) if free else np.arange(n_classes)
    regions = _by_first_pixel(guess) if free else np.unique(guess)
    overlap = overlaps(truth, guess, classes, regions)
    rows, cols = linear_sum_assignment(overlap, maximize=True)
    if free:
        rows, cols = rows[overlap[rows, cols] > 0], cols[overlap[rows, cols] > 0]
    hits = overlap[rows, cols]
    counts[0, classes[rows]] = hits
    counts[1, classes[rows]] = overlap[:, cols].sum(0) - hits
    counts[2, classes] = overlap.sum(1)
    counts[2] -= counts[0]
    return counts


def overlaps(truth: np.ndarray, guess: np.ndarray, classes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(classes, regions): pixels that each class and region share."""
    class_at, region_at = np.zeros(classes.max() + 1, np.int64), np.zeros(regions.max() + 1, np.int64)
    class_at[classes], region_at[regions] = np.arange(len(classes)), np.arange(len(regions))
    joint = class_at[truth] * len(regions) + region_at[guess]
    return np.bincount(joint, minlength=len(classes) * len(regions)).reshape(len(classes), len(regions))


def _by_first_pixel(values: np.ndarray) -> np.ndarray:
    """The values that occur, in the order in which they occur first."""
    found, first = np.unique(values, return_index=True)
    return found[np.argsort(first)]
