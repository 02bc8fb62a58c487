"""From a baseline's maps to a `Segmentation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..segmentation.label_map import label_map
from ..segmentation.result import Segmentation
from ..utils.scaling import min_max


def result(
    image: np.ndarray,
    maps: Tensor,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    labels: np.ndarray | None = None,
) -> Segmentation:
    """A segmentation by maps (classes, rows, cols): the argmax of the upsampled maps, or ``labels`` if given."""
    found = label_map(maps, image.shape[:2]).cpu().numpy() if labels is None else labels
    kind = np.uint8 if len(classes) < 256 else np.int32
    return Segmentation(found.astype(kind), maps.float().cpu().numpy(), tuple(classes), image, settings)


def ranged(maps: Float[Tensor, "classes _ _"], size: Sequence[int]) -> Float[Tensor, "classes height width"]:
    """Class maps upsampled bilinearly to ``size``, each then scaled to [0, 1] by its own range there."""
    return min_max(functional.interpolate(maps[None], size=list(size), mode="bilinear", align_corners=False)[0], (1, 2))


def region_result(image: np.ndarray, maps: Tensor, settings: Mapping[str, Any]) -> Segmentation:
    """A segmentation by the maps of regions, which are named by their map's number from 1.

    Labels are the numbers of maps, also if some map is the highest nowhere: the released matching depends on them.
    """
    return result(image, maps, [f"region {number + 1}" for number in range(len(maps))], settings)
