"""Metrics of regions without names: each image's regions are first matched to its classes (Seg4Diff, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .iou import mean_iou

Labels = np.ndarray | Tensor
MAX_PAIRS = 1 << 26
"""Largest table of classes and region numbers (512 MB)."""


class MatchedMetrics(NamedTuple):
    """Counts of a data set after matching, and the metrics made of them.

    Attributes:
        tp: (classes,) true positives, in pixels.
        fp: (classes,) false positives, in pixels.
        fn: (classes,) false negatives, in pixels.
        total: number of labeled pixels.
        miou: mean IoU of the classes that are true or predicted, in [0, 1]: a class that is only predicted counts as 0; NaN if
            there is none. The tables of `evaluation` have it as ``miou_absent_zero``.
        accuracy: share of the labeled pixels that are matched, in [0, 1]; NaN if there is none.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray
    total: int
    miou: float
    accuracy: float


def from_counts(counts: np.ndarray, total: int) -> MatchedMetrics:
    """The metrics of ``counts`` (3, classes): true positives, false positives, false negatives; ``total`` labeled pixels."""
    tp, fp, fn = counts
    miou = float(mean_iou(counts, absent_as_zero=True))
    return MatchedMetrics(tp, fp, fn, total, miou, float(tp.sum() / total) if total else float("nan"))


def matched_metrics(labels: Labels, predictions: Labels, n_classes: int, *, ignore: int = 255) -> MatchedMetrics:
    """The paper's protocol: in each image, classes and regions are paired one to one so that their overlap is largest.

    Args:
        labels: (images, height, width) or (height, width), NumPy or torch on the CPU; class numbers or ``ignore``.
        predictions: region numbers from 0, same shape; a number means nothing across images.
        n_classes: number of classes of the data set; all take part in every image's matching, even absent ones.
        ignore: the label of pixels without a class.

    As in the released code, every number from 0 to the larger of the last class and the last region takes part, the last
    region counted over ignored pixels too: numbers without a pixel leave regions over. A leftover region is paired with a
    class that it does not overlap, and its pixels become that class's false positives. The metrics therefore depend on how
    classes and regions are numbered; those of `matched_metrics_free` do not.

    >>> import numpy as np
    >>> labels = np.array([[0, 0, 1], [0, 1, 1]])
    >>> regions = np.array([[4, 4, 2], [4, 4, 2]])
    >>> metrics = matched_metrics(labels, regions, n_classes=2)
    >>> metrics.tp, round(metrics.miou, 3), round(metrics.accuracy, 3)
    (array([3., 2.]), 0.708, 0.833)
    """
    return _sum_images(labels, predictions, n_classes, ignore, free=False)


def matched_metrics_free(labels: Labels, predictions: Labels, n_classes: int, *, ignore: int = 255) -> MatchedMetrics:
    """The order-independent variant of `matched_metrics`: the numbering of classes and regions changes nothing.

    It differs in three ways. Only classes present in an image take part in its matching. Pairs with zero overlap are
    dropped: an unmatched region adds false negatives to the true classes and false positives to none. Ties are broken by
    the image: classes and regions are ordered by their first pixel, row by row.

    >>> import numpy as np
    >>> labels, regions = np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2]])
    >>> matched_metrics_free(labels, regions, n_classes=3).miou, matched_metrics(labels, regions, n_classes=3).miou
    (0.75, 0.5)
    """
    return _sum_images(labels, predictions, n_classes, ignore, free=True)


def _sum_images(labels: Labels, predictions: Labels, n_classes: int, ignore: int, free: bool) -> MatchedMetrics:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape or labels.ndim not in (2, 3):
        raise ValueError(
            "matched_metrics: labels and predictions must both be (images, height, width), "
            f"got {labels.shape} and {predictions.shape}"
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
        numbers = None if free else region_numbers(guess, n_classes)
        counts += _one_image(truth[valid].astype(np.int64), guess[valid].astype(np.int64), n_classes, numbers)
    return from_counts(counts, int(kept.size))


def region_numbers(regions: np.ndarray, n_classes: int) -> np.ndarray:
    """All numbers that take part in the released matching: 0 to the larger of the last class and the last region.

    `ValueError` if the table of classes and numbers would not fit into memory.
    """
    count = max(n_classes, int(regions.max(initial=0)) + 1)
    if n_classes * count > MAX_PAIRS:
        raise ValueError(
            f"matched_metrics: region numbers must be below {MAX_PAIRS // n_classes} for {n_classes} classes, "
            f"got {count - 1}; number the regions from 0 without gaps"
        )
    return np.arange(count)


def _one_image(truth: np.ndarray, guess: np.ndarray, n_classes: int, numbers: np.ndarray | None) -> np.ndarray:
    """(3, classes): true positives, false positives and false negatives of one image's labeled pixels.

    ``numbers`` are the region numbers that take part; None for the order-independent variant.
    """
    counts = np.zeros((3, n_classes))
    if not truth.size:
        return counts
    free = numbers is None
    classes = _by_first_pixel(truth) if numbers is None else np.arange(n_classes)
    regions = _by_first_pixel(guess) if numbers is None else numbers
    overlap = overlaps(truth, guess, classes, regions)
    of_class, of_region = linear_sum_assignment(overlap, maximize=True)
    if free:
        paired = overlap[of_class, of_region] > 0
        of_class, of_region = of_class[paired], of_region[paired]
    hits = overlap[of_class, of_region]
    counts[0, classes[of_class]] = hits
    counts[1, classes[of_class]] = overlap[:, of_region].sum(0) - hits
    counts[2, classes] = overlap.sum(1)
    counts[2] -= counts[0]
    return counts


def overlaps(truth: np.ndarray, guess: np.ndarray, classes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(classes, regions): number of pixels that each class and region share."""
    class_at, region_at = np.zeros(classes.max() + 1, np.int64), np.zeros(regions.max() + 1, np.int64)
    class_at[classes], region_at[regions] = np.arange(len(classes)), np.arange(len(regions))
    joint = class_at[truth] * len(regions) + region_at[guess]
    return np.bincount(joint, minlength=len(classes) * len(regions)).reshape(len(classes), len(regions))


def _by_first_pixel(values: np.ndarray) -> np.ndarray:
    """The values that occur, in the order of their first pixel."""
    found, first = np.unique(values, return_index=True)
    return found[np.argsort(first)]
