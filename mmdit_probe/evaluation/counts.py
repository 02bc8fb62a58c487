"""From one image's maps to pixels counted by class, for every timestep, layer and head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..configs import EvaluateConfig
from ..datasets.labeled import IGNORE
from ..metrics.matching import MatchedMetrics, matched_metrics, matched_metrics_free
from ..metrics.segmentation import score
from ..segmentation.kl_merge import region_maps
from ..segmentation.label_map import label_map
from ..segmentation.maps import scaled
from .trivial import TRIVIAL, trivial_regions

COUNTS = ("tp", "fp", "fn")
MATCHINGS = {"open-vocabulary": ("names",), "unsupervised": ("paper", "order-independent")}
"""How predictions are told to be right: by their names, or after matching regions to classes."""

Predict = Callable[[Tensor], np.ndarray]


def offered(labels: np.ndarray, classes: Sequence[str], vocabulary: str) -> list[int]:
    """Numbers of the classes that an image's prompt names: those present in ``labels``, or all.

    Where nothing is labeled no pixel counts, and the prompt names the first class.
    """
    if vocabulary == "full":
        return list(range(len(classes)))
    return [int(number) for number in np.unique(labels) if number != IGNORE] or [0]


def count_classes(
    maps: Tensor,
    offer: Sequence[int],
    labels: np.ndarray,
    classes: int,
    normalize: str,
    correct: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """(matching, timestep, layer, head, count, class) int32 from class maps (timestep, layer, head, offered, row, col).

    ``correct`` changes label maps, which hold positions in ``offer``, before they count.
    """

    def count(view: Tensor) -> np.ndarray:
        guess = label_map(scaled(view, normalize), labels.shape).numpy()
        return named_counts(labels, offer, guess if correct is None else correct(guess), classes)

    return _every_view(maps, count)


def named_counts(labels: np.ndarray, offer: Sequence[int], guess: np.ndarray, classes: int) -> np.ndarray:
    """(matching, count, class) of one label map of positions in ``offer``."""
    confusion = score(labels, np.array(offer)[guess], classes).confusion
    hits = np.diag(confusion)
    return np.stack([hits, confusion.sum(0) - hits, confusion.sum(1) - hits])[None]


def count_regions(maps: Tensor, labels: np.ndarray, classes: int, config: EvaluateConfig) -> np.ndarray:
    """The same from an empty prompt's token maps (timestep, layer, head, token, row, col)."""

    def count(view: Tensor) -> np.ndarray:
        merged = region_maps(view, config.threshold, config.variant, config.min_max)
        return matched_counts(labels, label_map(merged, labels.shape).numpy(), classes)

    return _every_view(maps, count)


def count_trivial(image: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """(matching, baseline, count, class) int32; k-means is told how many classes the image has."""
    present = len(offered(labels, [], "present"))
    regions = (trivial_regions(name, image, present, seed) for name in TRIVIAL)
    return np.stack([matched_counts(labels, guess, classes) for guess in regions], 1).astype(np.int32)


def matched_counts(labels: np.ndarray, regions: np.ndarray, classes: int) -> np.ndarray:
    """(matching, count, class) of one image's regions, by both ways of matching."""
    measures: tuple[Callable[..., MatchedMetrics], ...] = (matched_metrics, matched_metrics_free)
    return np.stack([np.stack(measure(labels, regions, classes)[:3]) for measure in measures])


def _every_view(maps: Tensor, count: Predict) -> np.ndarray:
    """``count`` of each (entry, row, col) in (timestep, layer, head, entry, row, col)."""
    views = maps.flatten(0, 2)
    with torch.no_grad():
        counted = np.stack([count(view) for view in views], 1)
    shape = counted.shape
    return counted.reshape(shape[0], *maps.shape[:3], *shape[2:]).astype(np.int32)
