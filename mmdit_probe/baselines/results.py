"""From a baseline's maps to a `Segmentation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..segmentation.label_map import label_map
from ..segmentation.result import Segmentation


def result(
    image: np.ndarray,
    maps: Tensor,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    labels: np.ndarray | None = None,
) -> Segmentation:
    """The argmax of maps (classes, rows, cols) upsampled to the image, or the label map given."""
    found = label_map(maps, image.shape[:2]).cpu().numpy() if labels is None else labels
    kind = np.uint8 if len(classes) < 256 else np.int32
    return Segmentation(found.astype(kind), maps.float().cpu().numpy(), tuple(classes), image, settings)


def region_result(image: np.ndarray, maps: Tensor, settings: Mapping[str, Any]) -> Segmentation:
    """The same for regions, named by their number from 1; those that no pixel belongs to are left out."""
    found = label_map(maps, image.shape[:2]).cpu().numpy()
    kept, labels = np.unique(found, return_inverse=True)
    names = [f"region {number + 1}" for number in range(len(kept))]
    return result(image, maps[torch.from_numpy(kept)], names, settings, labels.reshape(found.shape))
