"""Maps that move: a picture a timestep, or a frame of a video, as a GIF or in a row."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..configs.reading import Read
from .maps import DIRECTIONS, plot_overlay, scale_of
from .overlay import overlay
from .style import house_style

ACROSS = 14
"""Most pictures side by side in a strip."""
_SMALLEST = 256
"""Width in px under which a GIF's pictures are enlarged."""
_SHOWN, _LAST = 220, 1200
"""How long each picture and the last one stand, in ms."""


def gif(images: np.ndarray, maps: np.ndarray, labels: Sequence[str], direction: Read = "i2t") -> bytes:
    """An animation of one word's map over its image, on one color scale, as a GIF file's bytes.

    Args:
        images: (n or 1, height, width, 3) uint8 RGB; one image stands under all maps.
        maps: (n, row, col).
        labels: what is written under each.
        direction: what was read, see `configs.reading`.
    """
    low, top = scale_of(maps, direction)
    pictures = [
        _labeled(overlay(_large(image), grid - low, top=top - low), label)
        for image, grid, label in zip(_each(images, len(maps)), maps, labels, strict=True)
    ]
    buffer = io.BytesIO()
    shown = [_SHOWN] * (len(pictures) - 1) + [_LAST]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=shown, loop=0)
    return buffer.getvalue()


def _each(images: np.ndarray, count: int) -> list[np.ndarray]:
    return [images[0]] * count if len(images) == 1 else list(images)


def _large(image: np.ndarray) -> np.ndarray:
    """The image, small ones enlarged pixel by pixel."""
    times = -(-_SMALLEST // image.shape[1])
    return image.repeat(times, 0).repeat(times, 1)


def _labeled(picture: Image.Image, label: str) -> Image.Image:
    """The picture with a line under it."""
    size = max(12, picture.width // 28)
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * size), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    draw.text((size // 2, picture.height + size // 3), label, fill="black", font=ImageFont.load_default(size))
    return canvas


def strip(
    images: np.ndarray,
    maps: np.ndarray,
    words: Sequence[str],
    labels: Sequence[str],
    layer: str,
    direction: Read = "i2t",
) -> Figure:
    """Pictures in a row, for each word one; each word has a color scale of its own, whose ends stand beside it.

    Args:
        images: (n or 1, height, width, 3) uint8 RGB; several are shown above the words' rows.
        maps: (word, n, row, col).
        words: their names.
        labels: of each picture.
        layer: which layer it is, in words.
        direction: what was read, see `configs.reading`.
    """
    count = len(labels)
    bands = -(-count // ACROSS)
    across = -(-count // bands)
    plain = len(images) > 1
    per_band = len(words) + plain
    height, width = images.shape[1:3]
    tile = min(1.3, 10.5 / (across + 1))
    with house_style():
        size = (tile * (across + 1) + 0.2, (tile * height / width + 0.03) * per_band * bands + 0.2 * bands + 0.2)
        figure, axes = plt.subplots(per_band * bands, across, figsize=(max(3.6, size[0]), size[1]), squeeze=False)
        figure.set_layout_engine("compressed", w_pad=0.03, h_pad=0.01, wspace=0.0, hspace=0.0)
        for ax in axes.flat:
            ax.axis("off")
        under = _each(images, count)
        for number, label in enumerate(labels):
            first, col = number // across * per_band, number % across
            if plain:
                axes[first, col].imshow(under[number])
            axes[first, col].set_title(label, fontsize=6.5, pad=2)
            for row, grids in enumerate(maps, first + plain):
                low, top = scale_of(grids, direction)
                plot_overlay(axes[row, col], grids[number], under[number], top, low)
        for band in range(bands):
            for row, (word, grids) in enumerate(zip(words, maps, strict=True), band * per_band + plain):
                low, top = scale_of(grids, direction)
                named = f"“{word}”\n{low:.2g} to {top:.2g}"
                axes[row, 0].set_ylabel(named, rotation=0, ha="right", va="center", fontsize=7)
        figure.suptitle(f"{DIRECTIONS[direction]}, {layer}", fontsize=8.5)
        return figure
