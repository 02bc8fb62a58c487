"""Trivial baselines that need no model: one region, and k-means on colors or on positions."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2, vq

from ..utils.choices import check_choice

TRIVIAL = ("one region", "k-means on colors", "k-means on positions")
_FITTED = 64
"""Side in px of the image that clusters are fitted on; then every pixel takes the nearest one."""


def trivial_regions(name: str, image: np.ndarray, regions: int, seed: int = 0) -> np.ndarray:
    """Region numbers (height, width) from 0 of an image (height, width, 3) uint8; ``regions`` is the k of k-means."""
    check_choice("baseline", name, TRIVIAL)
    if name == TRIVIAL[0] or regions < 2:
        return np.zeros(image.shape[:2], np.int64)
    features = colors if name == TRIVIAL[1] else positions
    small = np.asarray(Image.fromarray(image).resize((_FITTED, _FITTED), Image.Resampling.BILINEAR))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty clusters: an image of few colors has fewer regions
        centers, _ = kmeans2(features(small), regions, minit="++", rng=np.random.default_rng(seed))
    return vq(features(image), centers)[0].reshape(image.shape[:2]).astype(np.int64)


def colors(image: np.ndarray) -> np.ndarray:
    """(pixels, 3) RGB in [0, 1]."""
    return image.reshape(-1, 3) / 255


def positions(image: np.ndarray) -> np.ndarray:
    """(pixels, 2) row and column in (0, 1)."""
    height, width = image.shape[:2]
    rows, cols = np.mgrid[:height, :width]
    return np.stack([(rows.ravel() + 0.5) / height, (cols.ravel() + 0.5) / width], -1)
