"""Segmentation metrics from confusion counts summed over a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .iou import iou, mean_iou


@dataclass(frozen=True, eq=False)
class SegmentationMetrics:
    """Metrics of a confusion matrix, pixels (classes, classes): true class by row, predicted class by column.

    The metrics of several images are the sum of theirs: ``first + second`` adds the counts.
    """

    confusion: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(3, classes) pixels: true positives, false positives and false negatives of each class."""
        hits = np.diag(self.confusion)
        return np.stack([hits, self.confusion.sum(0) - hits, self.confusion.sum(1) - hits])

    @property
    def iou(self) -> np.ndarray:
        """(classes,) intersection over union, in [0, 1]; NaN for a class that is neither true nor predicted."""
        return iou(*self.counts)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes of the ground truth, in [0, 1]; see `metrics.iou.mean_iou` for the other mean."""
        return float(mean_iou(self.counts))

    @property
    def miou_absent_zero(self) -> float:
        """Mean IoU over the classes that are true or predicted; those that are only predicted count as 0 (mmseg)."""
        return float(mean_iou(self.counts, absent_as_zero=True))

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are right, in [0, 1]."""
        return float(np.diag(self.confusion).sum() / self.confusion.sum())

    def __add__(self, other: SegmentationMetrics) -> SegmentationMetrics:
        return SegmentationMetrics(self.confusion + other.confusion)


def measure_labels(
    labels: np.ndarray, predictions: np.ndarray, classes: int, *, ignore: int = 255
) -> SegmentationMetrics:
    """Compare predicted class numbers with the true ones, pixel by pixel.

    Args:
        labels: true class numbers of any shape; pixels labeled ``ignore`` do not count.
        predictions: predicted class numbers, same shape.
        classes: number of classes.
        ignore: the label of pixels without a class.

    `ValueError` if the shapes differ or a number is out of range.

    >>> import numpy as np
    >>> labels = np.array([[0, 0, 1], [0, 1, 255]])
    >>> metrics = measure_labels(labels, np.array([[0, 0, 1], [1, 1, 1]]), classes=3)
    >>> metrics.iou.round(3), round(metrics.miou, 3), metrics.pixel_accuracy
    (array([0.667, 0.667,   nan]), 0.667, 0.8)
    """
    if labels.shape != predictions.shape:
        raise ValueError(
            f"measure_labels: labels and predictions must have the same shape, got {labels.shape} and {predictions.shape}"
        )
    kept = labels != ignore
    truth, guess = labels[kept].astype(np.int64), predictions[kept].astype(np.int64)
    for name, values in (("labels", truth), ("predictions", guess)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"measure_labels: {name} must be in 0 to {classes - 1} or {ignore}, got {values.min()} to {values.max()}"
            )
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    return SegmentationMetrics(counts.reshape(classes, classes))
