"""Intersection over union from pixel counts."""

from __future__ import annotations

import numpy as np


def iou(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """Intersection over union ``tp / (tp + fp + fn)`` in [0, 1], element by element; NaN for 0 / 0.

    Args:
        tp: true positives, pixels of a class that are predicted as it; any shape.
        fp: false positives, pixels of other classes that are predicted as it.
        fn: false negatives, pixels of the class that are predicted as others.

    >>> import numpy as np
    >>> iou(np.array([6, 1, 0]), np.array([1, 0, 0]), np.array([1, 3, 0]))
    array([0.75, 0.25,  nan])
    """
    hits, union = np.asarray(tp, float), np.asarray(tp) + fp + fn
    return np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)
