"""What regions without any model score: one region, and k-means on colours or on positions."""

from __future__ import annotations

import warnings

import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2, vq

BASELINES = ("one region", "k-means on colours", "k-means on positions")
_FITTED = 64
"""Clusters are fitted on the picture at so many px a side, then every pixel takes the nearest one."""


def baseline_regions(name: str, picture: np.ndarray, regions: int, seed: int = 0) -> np.ndarray:
    """Region numbers (height, width) of a picture (height, width, 3) uint8; ``regions`` is the k of k-means."""
    if name not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {name!r}")
    if name == BASELINES[0] or regions < 2:
        return np.zeros(picture.shape[:2], np.int64)
    features = colours if name == BASELINES[1] else positions
    small = np.asarray(Image.fromarray(picture).resize((_FITTED, _FITTED), Image.Resampling.BILINEAR))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty clusters: a picture of few colours has fewer regions
        centres, _ = kmeans2(features(small), regions, minit="++", rng=np.random.default_rng(seed))
    return vq(features(picture), centres)[0].reshape(picture.shape[:2]).astype(np.int64)


def colours(picture: np.ndarray) -> np.ndarray:
    """(pixels, 3) RGB in [0, 1]."""
    return picture.reshape(-1, 3) / 255


def positions(picture: np.ndarray) -> np.ndarray:
    """(pixels, 2) row and column in (0, 1)."""
    height, width = picture.shape[:2]
    rows, cols = np.mgrid[:height, :width]
    return np.stack([(rows.ravel() + 0.5) / height, (cols.ravel() + 0.5) / width], -1)
