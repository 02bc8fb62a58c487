"""Intersection over union from pixel counts, and its two means over classes."""

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


def mean_iou(counts: np.ndarray, absent_as_zero: bool = False) -> np.ndarray:
    """mIoU (...) in [0, 1] from counts (..., 3, class): true positives, false positives and false negatives.

    Two means are in use, and differ where a class is predicted that the ground truth does not hold:

    - the mean over the classes of the ground truth, as detectron2 and the released evaluation take it (default);
    - the mean over the classes that are true or predicted, of which those that are only predicted count as 0, as mmseg takes it
      (``absent_as_zero``).

    NaN if there is no class.

    >>> import numpy as np
    >>> counts = np.array([[6, 1, 0], [1, 0, 3], [1, 3, 0]])  # the third class is only predicted
    >>> float(mean_iou(counts)), round(float(mean_iou(counts, absent_as_zero=True)), 3)
    (0.5, 0.333)
    """
    tp, fp, fn = np.moveaxis(np.asarray(counts), -2, 0)
    by_class = iou(tp, fp, fn)
    counted = tp + fn + fp > 0 if absent_as_zero else tp + fn > 0
    number = counted.sum(-1)
    total = np.where(counted, by_class, 0.0).sum(-1)
    return np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
