"""DiffCut's way of counting background: regions that match no class become one, and are matched again (Couairon et al. 2024,
"DiffCut: Catalyzing Zero-Shot Semantic Segmentation with Diffusion Features and Recursive Normalized Cut").
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer
from scipy.optimize import linear_sum_assignment

from .matching import MatchedMetrics, matched_metrics, overlaps, region_numbers


def merge_background(
    labels: Integer[np.ndarray, "height width"],
    regions: Integer[np.ndarray, "height width"],
    n_classes: int,
    background: int,
    *,
    ignore: int = 255,
) -> Integer[np.ndarray, "height width"]:
    """One image's regions, in which those that are matched to no class of the image are one new region, numbered last.

    Regions are matched one to one to the classes other than ``background``, on these classes' pixels.

    Args:
        labels: class numbers or ``ignore``.
        regions: region numbers from 0.
        n_classes: number of classes, background included.
        background: number of the class that stands for everything else.
        ignore: the label of pixels without a class.

    >>> import numpy as np
    >>> labels, regions = np.array([[0, 0, 2, 2, 2]]), np.array([[3, 3, 1, 1, 0]])
    >>> merge_background(labels, regions, n_classes=3, background=2)
    array([[3, 3, 4, 4, 4]])
    """
    if not 0 <= background < n_classes:
        raise ValueError(f"merge_background: background must be in 0 to {n_classes - 1}, got {background}")
    named = _background_last(labels, n_classes, background)
    kept = (named != ignore) & (named != n_classes - 1)
    regions = regions.astype(np.int64)
    numbers = region_numbers(regions, n_classes - 1)
    overlap = overlaps(named[kept], regions[kept], np.arange(n_classes - 1), numbers)
    _, of_class = linear_sum_assignment(overlap, maximize=True)
    found = overlap[:, of_class].max(1) > 0  # classes of the image, by the regions that are matched to any class
    return np.where(np.isin(regions, of_class[found]), regions, regions.max() + 1)


def background_metrics(
    labels: Integer[np.ndarray, "height width"],
    regions: Integer[np.ndarray, "height width"],
    n_classes: int,
    background: int,
    *,
    ignore: int = 255,
) -> MatchedMetrics:
    """`matched_metrics` of one image after `merge_background`.

    Background counts as the last class in the matching, whose ties depend on the order; the counts are in the order of
    ``labels``.
    """
    merged = merge_background(labels, regions, n_classes, background, ignore=ignore)
    last = _background_last(labels, n_classes, background)
    found = matched_metrics(last, merged, n_classes, ignore=ignore)
    order = [n_classes - 1 if number == background else number - (number > background) for number in range(n_classes)]
    return found._replace(tp=found.tp[order], fp=found.fp[order], fn=found.fn[order])


def _background_last(labels: np.ndarray, n_classes: int, background: int) -> np.ndarray:
    """The labels with ``background`` as the last class and the order of the others kept; other values stay."""
    labels = labels.astype(np.int64)
    moved = np.where((labels > background) & (labels < n_classes), labels - 1, labels)
    return np.where(labels == background, n_classes - 1, moved)
