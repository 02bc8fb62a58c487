"""From one image's maps to pixel counts by class, for every timestep, layer and head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..configs import EvaluateConfig
from ..configs.segmentation import Vocabulary
from ..datasets.labeled import IGNORE
from ..metrics.background import background_metrics, merge_background
from ..metrics.matching import matched_metrics, matched_metrics_free
from ..segmentation.kl_merge import region_maps
from ..segmentation.label_map import label_map
from ..segmentation.layer_metrics import Correct, measure_maps
from ..segmentation.maps import Normalize, scaled
from .trivial import TRIVIAL, trivial_regions

COUNTS = ("tp", "fp", "fn")
MATCHINGS = {"open-vocabulary": ("names",), "unsupervised": ("paper", "order-independent")}
"""How predictions are compared with the classes: by name, or after matching regions to classes."""


def offered(labels: np.ndarray, classes: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """Numbers of the classes that an image's prompt names: those in ``labels`` ("present"), or all ("full").

    The first class if nothing is labeled; no pixel counts then.
    """
    return list(range(len(classes))) if vocabulary == "full" else present(labels)


def present(labels: np.ndarray) -> list[int]:
    """Numbers of the classes in an image's labels, the first class if nothing is labeled."""
    return [int(number) for number in np.unique(labels) if number != IGNORE] or [0]


def count_classes(
    maps: Tensor,
    offer: Sequence[int],
    labels: np.ndarray,
    classes: int,
    normalize: Normalize,
    correct: Correct | None = None,
) -> np.ndarray:
    """Pixel counts (matching, timestep, layer, head, count, class) int32 of one image, by names.

    Args:
        maps: (timestep, layer, head, offered, row, col) class maps.
        offer: numbers of the offered classes.
        labels: (height, width) true class numbers.
        classes: number of classes of the data set.
        normalize: how the maps are scaled, see `segmentation.maps.scaled`.
        correct: changes label maps, whose values are positions in ``offer``, before they are counted.
    """
    return _every_setting(
        maps, lambda own: measure_maps(scaled(own, normalize), offer, labels, classes, correct).counts[None]
    )


def count_regions(maps: Tensor, labels: np.ndarray, classes: int, config: EvaluateConfig) -> np.ndarray:
    """The same of the regions that an empty prompt's token maps (timestep, layer, head, token, row, col) merge into."""

    def count(own: Tensor) -> np.ndarray:
        merged = region_maps(own, config.threshold, config.variant, config.min_max)
        return matched_counts(labels, label_map(merged, labels.shape).numpy(), classes)

    return _every_setting(maps, count)


def count_trivial(image: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Pixel counts (matching, baseline, count, class) int32 of the trivial baselines; k is the image's number of classes."""
    k = len(present(labels))
    regions = (trivial_regions(name, image, k, seed) for name in TRIVIAL)
    return np.stack([matched_counts(labels, guess, classes) for guess in regions], 1).astype(np.int32)


def matched_counts(labels: np.ndarray, regions: np.ndarray, classes: int, background: int | None = None) -> np.ndarray:
    """Pixel counts (matching, count, class) of one image's regions, by both ways of matching.

    ``background`` is the number of a class to which all regions without a class belong (`metrics.background`), None if there
    is no such class.
    """
    if background is None:
        found = (matched_metrics(labels, regions, classes), matched_metrics_free(labels, regions, classes))
    else:
        merged = merge_background(labels, regions, classes, background)
        found = (
            background_metrics(labels, regions, classes, background),
            matched_metrics_free(labels, merged, classes),
        )
    return np.stack([np.stack(metrics[:3]) for metrics in found])


def _every_setting(maps: Tensor, count: Callable[[Tensor], np.ndarray]) -> np.ndarray:
    """``count`` of the maps (entry, row, col) of each timestep, layer and head."""
    with torch.no_grad():
        counted = np.stack([count(own) for own in maps.flatten(0, 2)], 1)
    shape = counted.shape
    return counted.reshape(shape[0], *maps.shape[:3], *shape[2:]).astype(np.int32)
