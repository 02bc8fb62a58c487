"""How a map's mass is shared out among the masks of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer


def covered(cells: int, pixels: int) -> Float[np.ndarray, "cells pixels"]:
    """Share of each of ``cells`` equal parts of a side that each of its pixels covers; rows sum to 1.

    >>> covered(2, 3).round(2).tolist()
    [[0.67, 0.33, 0.0], [0.0, 0.33, 0.67]]
    """
    edges, starts = np.linspace(0, pixels, cells + 1), np.arange(pixels)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.clip(overlap, 0, None) * cells / pixels


def mask_shares(
    labels: Integer[np.ndarray, "height width"], numbers: Sequence[int], grid: tuple[int, int]
) -> Float[np.ndarray, "masks rows cols"]:
    """Share of each cell's area, in [0, 1], that the pixels of each of the label ``numbers`` cover; exact for any sizes."""
    down, across = covered(grid[0], labels.shape[0]), covered(grid[1], labels.shape[1])
    return np.stack([down @ (labels == number) @ across.T for number in numbers])


def mass_on_masks(
    maps: Float[np.ndarray, "*batch words rows cols"], shares: Float[np.ndarray, "masks rows cols"]
) -> Float[np.ndarray, "*batch words masks"]:
    """Share of each map's mass that lies on each mask, in [0, 1]; what lies on none of them is left out.

    A cell's mass is shared out among the masks by area. Maps must not be negative; NaN for a map without mass on the masks.
    """
    mass = np.einsum("...wrc,mrc->...wm", maps.astype(float), shares)
    whole = mass.sum(-1, keepdims=True)
    return np.divide(mass, whole, out=np.full(mass.shape, np.nan), where=whole > 0)
