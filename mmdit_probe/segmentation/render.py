"""Label maps drawn over their images, with outlines and a legend. Nothing here computes labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import IGNORED, palette

OPACITY = 0.65
_SMALLEST, _LARGEST = 384, 1024
"""Least and greatest longer side, in px, that images are shown with."""
_ROW, _SWATCH, _GAP, _LETTERS = 20, 12, 8, 13
"""Of the legend, in px, beside images of up to `_PLAIN` px; beside larger ones it grows with them."""
_PLAIN = 512


def colored(labels: np.ndarray, classes: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB: each class in its color; labels out of range are black."""
    colors = np.concatenate([palette(classes), [IGNORED]]).astype(np.uint8)
    return colors[np.where((labels >= 0) & (labels < classes), labels, classes)]


def blended(image: np.ndarray, labels: np.ndarray, classes: int, opacity: float = OPACITY) -> np.ndarray:
    """The image in gray under its label map's colors, (height, width, 3) uint8; ``opacity`` in [0, 1].

    In gray, so that the colors match the legend's. Unlabeled pixels keep the image's own color.
    """
    gray = image.mean(-1, keepdims=True)
    mixed = (1 - opacity) * gray + opacity * colored(labels, classes)
    known = (labels >= 0) & (labels < classes)
    return np.where(known[..., None], np.rint(mixed), image).astype(np.uint8)


def outlined(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The image with a white line along the borders between labels."""
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    return np.where(border[..., None], 255, image).astype(np.uint8)


def displayed(image: np.ndarray) -> np.ndarray:
    """An image or label map at the size it is shown: small ones enlarged by a whole factor, large ones shrunk.

    Label maps (height, width) are shrunk by taking the nearest label.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= _LARGEST:
        factor = max(1, -(-_SMALLEST // longer))
        return image.repeat(factor, 0).repeat(factor, 1)
    size = max(1, round(width * _LARGEST / longer)), max(1, round(height * _LARGEST / longer))
    how = Image.Resampling.NEAREST if image.ndim == 2 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size, how))


def sheet(image: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Image, overlay and legend side by side; the legend lists the classes that occur by their share of the pixels."""
    big, big_labels = displayed(image), displayed(labels)
    over = outlined(blended(big, big_labels, len(classes)), big_labels)
    side_by_side = np.concatenate([big, np.full((len(big), _GAP, 3), 255, np.uint8), over], 1)
    key = _legend(labels, classes, len(big), max(1.0, max(big.shape[:2]) / _PLAIN))
    canvas = Image.new("RGB", (side_by_side.shape[1] + key.width, max(len(big), key.height)), "white")
    canvas.paste(Image.fromarray(side_by_side), (0, 0))
    canvas.paste(key, (side_by_side.shape[1], 0))
    return canvas


def percent(share: float) -> str:
    """A share above 0 in words, such as 48% or <1%."""
    return f"{100 * share:.0f}%" if share >= 0.005 else "<1%"


def _font(text: str, size: int) -> Any:
    """A font of so many px that has the characters of a text; those that no font here has are named in a warning."""
    if text.isascii():
        return ImageFont.load_default(size)
    from matplotlib.font_manager import findfont

    from ..figures.fonts import OWN, cjk_file, needs_more, warn_of_missing

    warn_of_missing(text)
    other = cjk_file() if needs_more(text) else None
    return ImageFont.truetype(str(other or findfont(OWN)), size)


def _legend(labels: np.ndarray, classes: Sequence[str], height: int, scale: float) -> Image.Image:
    """The classes that occur, in as many columns as the image's height requires; everything ``scale`` times its size."""
    row, swatch, gap, letters = (round(scale * length) for length in (_ROW, _SWATCH, _GAP, _LETTERS))
    font = _font("".join(classes), letters)
    shares = [(float((labels == number).mean()), number) for number in range(len(classes))]
    present = sorted((item for item in shares if item[0] > 0), key=lambda item: (-item[0], item[1]))
    texts = [f"{classes[number]}  {percent(share)}" for share, number in present]
    per_column = max(1, (height - gap) // row)
    width = int(max((font.getlength(text) for text in texts), default=0)) + 3 * gap + swatch
    columns = max(1, -(-len(texts) // per_column))
    legend = Image.new("RGB", (width * columns, row * min(len(texts), per_column) + gap), "white")
    draw, colors = ImageDraw.Draw(legend), palette(len(classes))
    for place, ((_, number), text) in enumerate(zip(present, texts, strict=True)):
        left, top = width * (place // per_column) + gap, row * (place % per_column) + gap // 2
        box = (left, top + 2, left + swatch, top + 2 + swatch)
        draw.rectangle(box, fill=tuple(colors[number].tolist()), outline=(80, 80, 80))
        draw.text((left + swatch + gap, top), text, fill=(20, 20, 20), font=font)
    return legend
