"""COCO's run-length code of masks, uncompressed: counts of 0s and 1s in turn, down the columns."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """``{"size": [height, width], "counts": [...]}`` of a boolean mask (height, width); the first count is of 0s."""
    pixels = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *edges, len(pixels)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if len(pixels) and pixels[0] else counts}


def coco_annotations(labels: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """One COCO annotation for each class with a pixel; ``category_id`` is the number in the label map.

    ``area`` counts pixels and ``bbox`` is [x, y, width, height] in px.
    """
    found = []
    for number, name in enumerate(classes):
        mask = labels == number
        if mask.any():
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1]
            found.append(
                {
                    "category_id": number,
                    "category": name,
                    "segmentation": encode_mask(mask),
                    "area": int(mask.sum()),
                    "bbox": [int(side) for side in box],
                    "iscrowd": 0,
                }
            )
    return found
