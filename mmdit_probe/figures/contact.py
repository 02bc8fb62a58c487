"""Contact sheets: a row per prompt, a column per variant; a row per image, a column per word."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import house_style

ACROSS = 13
"""Most images side by side; further columns start a new block of rows."""


def contact_sheet(images: Mapping[str, np.ndarray], prompts: Sequence[str], titles: Mapping[str, str]) -> Figure:
    """A sheet of images; ``images[variant]`` is (prompts, height, width, 3) uint8 RGB, ``titles`` names the columns.

    Variants that have no room beside each other stand in further blocks, one below the other, of as many rows.
    """
    with house_style():
        names, rows = list(images), len(prompts)
        blocks = -(-len(names) // ACROSS)
        cols = -(-len(names) // blocks)
        size = (1.3 + 0.75 * cols, (0.35 + 0.8 * rows) * blocks)
        figure, axes = plt.subplots(rows * blocks, cols, figsize=size, squeeze=False)
        for ax in axes.flat:
            ax.axis("off")
        for number, name in enumerate(names):
            column = axes[number // cols * rows :, number % cols]
            for row, (ax, image) in enumerate(zip(column, images[name], strict=False)):
                _shown(ax, image, titles[name] if row == 0 else "")
        for row, ax in enumerate(axes[:, 0]):
            short = textwrap.fill(textwrap.shorten(prompts[row % rows], 66, placeholder=" ..."), 22)
            ax.set_ylabel(short, rotation=0, ha="right", va="center", fontsize=6)
        return figure


@dataclass(frozen=True, eq=False)
class MapRow:
    """A row of a sheet of maps: what stands at its left, the image, and each word's picture with what is written over it."""

    label: str
    image: np.ndarray
    pictures: Mapping[str, np.ndarray]


def maps_sheet(rows: Sequence[MapRow]) -> Figure:
    """Images and the maps of their words; images are (height, width, 3) uint8 RGB of any size."""
    across = 1 + max(len(row.pictures) for row in rows)
    with house_style():
        heights = [row.image.shape[0] / row.image.shape[1] for row in rows]
        size = (1.7 + 1.0 * across, 0.1 + sum(1.0 * min(height, 2.0) + 0.2 for height in heights))
        figure, axes = plt.subplots(len(rows), across, figsize=size, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.015, wspace=0.0, hspace=0.02)
        for row, line in zip(rows, axes, strict=True):
            for ax in line:
                ax.axis("off")
            _shown(line[0], row.image, "")
            for ax, (title, picture) in zip(line[1:], row.pictures.items(), strict=False):
                _shown(ax, picture, title)
            short = textwrap.fill(textwrap.shorten(row.label, 90, placeholder=" ..."), 24)
            line[0].set_ylabel(short, rotation=0, ha="right", va="center", fontsize=6.5)
        return figure


def _shown(ax: Axes, image: np.ndarray, title: str) -> None:
    ax.axis("on")
    ax.imshow(image, interpolation="nearest" if image.shape[1] < 128 else "antialiased")
    ax.set_title(title, fontsize=7, pad=2)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
