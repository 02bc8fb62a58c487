"""Where an object of a scene stands: by the pixels of its color, which the scenes' grounds do not have."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import ndimage

from ..datasets.shapes import COLORS
from .scene_reader import Fact

FEWEST_PIXELS = 24
"""Pixels of an object's color below which it counts as not drawn, and where it stands is not known."""
_CLOSE = 70.0
"""Distance of RGB values up to which a pixel has a color."""


def color_mask(image: np.ndarray, color: str) -> np.ndarray:
    """(height, width) bool: the pixels of an image, (height, width, 3) uint8 RGB, that have one of the scenes' colors."""
    rgb = 255 * np.asarray(COLORS[color], float)
    mask: np.ndarray = np.sqrt(((image.astype(float) - rgb) ** 2).sum(-1)) < _CLOSE
    return mask


def object_center(image: np.ndarray, facts: Collection[Fact]) -> np.ndarray:
    """(2,): where the one object of an image stands, as fractions of its width and height.

    ``facts`` are what a scene reader finds. The center of the largest connected patch of the object's color; NaN if the facts
    hold no colored shape or several, or hardly any pixel has the color.
    """
    found = [fact for fact in facts if len(fact) == 2]
    if len(found) != 1:
        return np.full(2, np.nan)
    parts, count = ndimage.label(color_mask(image, found[0][0]))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    if not count or sizes.max() < FEWEST_PIXELS:
        return np.full(2, np.nan)
    rows, cols = np.nonzero(parts == 1 + sizes.argmax())
    return (np.array([cols.mean(), rows.mean()]) + 0.5) / image.shape[1::-1]
