"""Places on the image: masks and boxes, as shares of the tokens of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..attention.edges import EdgeLayout
from ..attention.layout import TokenLayout

Place = Any
"""A mask (rows, cols) of truth values or of numbers in [0, 1], of any size; or a box (left, top, right, bottom), in fractions
of the image's width and height."""


def place_mask(name: str, place: Place) -> np.ndarray:
    """A place as a mask (rows, cols) in fp32, in [0, 1]; `ValueError` that begins with ``name`` if it is none."""
    given = np.asarray(place, np.float32)
    if given.ndim == 1 and given.size == 4:
        given = _boxed(name, given)
    if given.ndim != 2 or not given.size:
        raise ValueError(
            f"{name}: a place must be a mask of (rows, cols) or a box of left, top, right and bottom, got shape {given.shape}"
        )
    if not np.isfinite(given).all() or given.min() < 0 or given.max() > 1:
        raise ValueError(f"{name}: a mask must hold truth values or numbers from 0 to 1")
    if not given.any():
        raise ValueError(f"{name}: the mask is empty; it must cover some of the image")
    return given


def on_grid(mask: np.ndarray, layout: TokenLayout) -> torch.Tensor:
    """(image,): the share of each image token that a mask covers, in [0, 1]; the same in every frame.

    `ValueError` if these are the queries of an edge without a grid.
    """
    if isinstance(layout, EdgeLayout) and not layout.on_grid:
        raise ValueError(
            "edit: a place needs queries on a grid: the image's, or one reference's, with references=[number]"
        )
    rows, cols = layout.grid[-2:]
    if mask.shape != (rows, cols):
        source = torch.from_numpy(mask)[None, None]
        small = mask.shape[0] >= rows and mask.shape[1] >= cols
        how = functional.adaptive_avg_pool2d if small else functional.interpolate
        shares = how(source, (rows, cols))[0, 0]
    else:
        shares = torch.from_numpy(mask)
    return shares.flatten().repeat(layout.image // (rows * cols))


_FINE = 256


def _boxed(name: str, box: np.ndarray) -> np.ndarray:
    """(256, 256): the share of each cell that a box covers."""
    left, top, right, bottom = box.tolist()
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            f"{name}: a box must be left, top, right, bottom in fractions from 0 to 1, left before right and top before "
            f"bottom, got {', '.join(f'{side:g}' for side in box)}"
        )
    edges = np.arange(_FINE)
    across, down = (
        np.clip(np.minimum(edges + 1, _FINE * high) - np.maximum(edges, _FINE * low), 0, 1)
        for low, high in ((left, right), (top, bottom))
    )
    return np.outer(down, across).astype(np.float32)
