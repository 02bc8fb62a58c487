"""Contact sheets: a row per prompt, a column per variant."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
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
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        for number, name in enumerate(names):
            column = axes[number // cols * rows :, number % cols]
            column[0].set_title(titles[name], fontsize=7)
            for ax, image in zip(column, images[name], strict=False):
                ax.imshow(image, interpolation="nearest" if len(image) < 128 else "antialiased")
        for row, ax in enumerate(axes[:, 0]):
            short = textwrap.fill(textwrap.shorten(prompts[row % rows], 66, placeholder=" ..."), 22)
            ax.set_ylabel(short, rotation=0, ha="right", va="center", fontsize=6)
        return figure
