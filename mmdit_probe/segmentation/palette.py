"""Colors for label maps that are as distinct as possible, also for color-blind readers.

Written by hand: the package glasbey would add numba, a just-in-time compiler, to the dependencies.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_FIRST = ("E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")  # Okabe-Ito without its black
_DEFICIENCIES = (  # Machado et al. 2009, severity 1, on linear RGB: none, protan, deutan, tritan
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))  # of linear sRGB
IGNORED = (0, 0, 0)
"""The color of pixels without a label."""


def palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB colors; the first ones are the same for every ``count``, and after 256 they repeat.

    The first seven are Okabe and Ito's. Each further one has the largest CIELAB distance to all before it, the smallest of
    the distances in normal, protan, deutan and tritan vision; none is close to white or black.
    """
    return np.array(_colors()[: max(count, 1)] if count <= 256 else np.resize(_colors(), (count, 3)), np.uint8)[:count]


@lru_cache(maxsize=1)
def _colors() -> np.ndarray:
    """256 colors (256, 3), chosen from a grid of 16 levels per channel."""
    levels = np.arange(0, 256, 17)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    chosen = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _FIRST])
    seen, candidates = seen_as(chosen), seen_as(grid)
    usable = (candidates[0, :, 0] > 25) & (candidates[0, :, 0] < 90)
    grid, candidates = grid[usable], candidates[:, usable]
    nearest = np.min([_worst_distance(seen[:, [i]], candidates) for i in range(len(chosen))], 0)
    while len(chosen) < 256:
        best = int(nearest.argmax())
        chosen = np.concatenate([chosen, grid[[best]]])
        nearest = np.minimum(nearest, _worst_distance(candidates[:, [best]], candidates))
    return chosen


def _worst_distance(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one - others, axis=-1).min(0)


def seen_as(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (4, colors, 3) of uint8 RGB colors (colors, 3) in normal, protan, deutan and tritan vision."""
    scaled = np.asarray(rgb) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("sij,cj->sci", np.array(_DEFICIENCIES), linear), 0, 1)
    x, y, z = np.moveaxis(seen @ np.array(_XYZ).T / np.sum(_XYZ, 1), -1, 0)
    fx, fy, fz = (np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z))
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -1)
