"""A map over its image, as a picture of the image's own size."""

from __future__ import annotations

import numpy as np
from PIL import Image

MAP = "plasma"
_FAINT, _SOLID = 0.25, 0.85
"""How much of the picture is the map's where it is 0, and where it is largest."""


def overlay(image: np.ndarray, grid: np.ndarray, *, smooth: bool = True, top: float | None = None) -> Image.Image:
    """The image in gray under the colors of a map, at the image's own size.

    Args:
        image: (height, width, 3) uint8 RGB.
        grid: (row, col) probabilities; NaN is drawn as 0.
        smooth: interpolate between tokens, or draw each as a block.
        top: the value in the brightest color, the map's largest if None.

    Raises:
        ValueError: the image's proportions are not those of the map's tokens.

    >>> overlay(np.zeros((50, 90, 3), np.uint8), np.eye(5, 9)).size
    (90, 50)
    """
    check_proportions(image, grid)
    height, width = image.shape[:2]
    colors, shares = heat(grid, (width, height), smooth, top)
    gray = image.astype(float) @ (0.299, 0.587, 0.114)
    solid = (_FAINT + (_SOLID - _FAINT) * np.sqrt(shares))[..., None]  # small probabilities hide little
    return Image.fromarray(np.rint((1 - solid) * gray[..., None] + solid * colors).astype(np.uint8))


def heat(
    grid: np.ndarray, size: tuple[int, int], smooth: bool = True, top: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A map's colors (height, width, 3) in 0 to 255, and its shares (height, width) of ``top`` in [0, 1].

    ``size`` is (width, height) in px.
    """
    import matplotlib

    values = np.nan_to_num(np.asarray(grid, np.float32))
    largest = float(values.max()) if top is None else top
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    spread = Image.fromarray(values / (largest if largest > 0 else 1.0)).resize(size, how)
    shares = np.clip(np.asarray(spread, float), 0, 1)
    return 255 * matplotlib.colormaps[MAP](shares)[..., :3], shares


def check_proportions(image: np.ndarray, grid: np.ndarray) -> None:
    """`ValueError` if the map's rows and columns can't be the image's, sides rounded to whole tokens."""
    (height, width), (rows, cols) = image.shape[:2], grid.shape
    apart = abs(cols * height - rows * width)
    if apart > 0.5 * (height + width):
        raise ValueError(
            f"overlay: the image has {width} x {height} px, the map {cols} x {rows} tokens, which are other proportions; "
            f"give the image that was read"
        )
