"""COCO's run-length code of masks: the lengths of alternating runs of 0s and 1s, down the columns.

Written by hand: pycocotools would add a compiled dependency, decodes several times more slowly, and returns uninitialized
memory for counts that do not fill the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """The uncompressed run-length code of a boolean mask (height, width); the first count is of 0s.

    >>> encode_mask(np.array([[0, 1], [0, 1], [1, 0]], bool))
    {'size': [3, 2], 'counts': [2, 3, 1]}
    """
    pixels = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *edges, len(pixels)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if len(pixels) and pixels[0] else counts}


def coco_annotations(labels: np.ndarray, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A COCO annotation of each class that occurs in a label map (height, width).

    ``category_id`` is the class's label, ``area`` its number of pixels, ``bbox`` [x, y, width, height] in px.
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


Annotation = dict[str, Any]


def decode_mask(code: Annotation) -> np.ndarray:
    """The boolean mask (height, width) of a run-length code, whose counts are a list or COCO's compressed text.

    `ValueError` if the code is malformed or its counts do not fill the mask.

    >>> decode_mask({"size": [3, 2], "counts": [2, 3, 1]}).astype(int).tolist()
    [[0, 1], [0, 1], [1, 0]]
    """
    try:
        counts, (height, width) = code["counts"], code["size"]
        runs = _expand(counts) if isinstance(counts, str) else list(counts)
        if min(runs, default=0) < 0 or sum(runs) != height * width or min(height, width) < 0:
            raise ValueError(f"{sum(runs)} pixels in runs, {height} x {width} in all")
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"a run-length code must have counts that fill its size ({error!r})") from error


def _expand(text: str) -> list[int]:
    """The counts of COCO's compressed text.

    Each character holds 5 bits, lowest first, and a bit that is set if more follow; from the fourth on, a number is the
    difference from the count before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
