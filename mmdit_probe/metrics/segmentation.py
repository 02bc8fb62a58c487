"""Segmentation scores from confusion counts summed over a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .matching import MatchedMetrics, matched_metrics, matched_metrics_free, sum_matched

__all__ = ["MatchedMetrics", "Scores", "matched_metrics", "matched_metrics_free", "score", "sum_matched"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a confusion matrix (classes, classes): true class by row, predicted by column."""

    confusion: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, in [0, 1]; NaN for a class that is neither true nor predicted."""
        hits = np.diag(self.confusion).astype(float)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in [0, 1]."""
        return float(np.nanmean(self.iou))

    @property
    def pixel_accuracy(self) -> float:
        """WorkerShare of the labeled pixels that are right, in [0, 1]."""
        return float(np.diag(self.confusion).sum() / self.confusion.sum())

    @property
    def mean_accuracy(self) -> float:
        """Mean over the true classes of the share of their pixels that are right, in [0, 1]."""
        truth = self.confusion.sum(1)
        return float((np.diag(self.confusion)[truth > 0] / truth[truth > 0]).mean())

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.confusion + other.confusion)


def score(labels: np.ndarray, predictions: np.ndarray, classes: int, *, ignore: int = 255) -> Scores:
    """Confusion of label maps of one shape; pixels labeled ``ignore`` do not count.

    `ValueError` if the shapes differ or a value is out of range.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"score: labels have shape {labels.shape}, predictions {predictions.shape}; they must agree")
    kept = labels != ignore
    truth, guess = labels[kept].astype(np.int64), predictions[kept].astype(np.int64)
    for name, values in (("labels", truth), ("predictions", guess)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"score: {name} must be in 0 to {classes - 1} or {ignore}, got {values.min()} to {values.max()}"
            )
    counts = np.bincount(truth * classes + guess, minlength=classes * classes)
    return Scores(counts.reshape(classes, classes))
