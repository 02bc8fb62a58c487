"""Contact sheets: a row per prompt, a column per variant."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .style import house_style


def contact_sheet(images: Mapping[str, np.ndarray], prompts: Sequence[str], titles: Mapping[str, str]) -> Figure:
    """A sheet of images; ``images[variant]`` is (prompts, height, width, 3) uint8 RGB, ``titles`` names the columns."""
    with house_style():
        rows, cols = len(prompts), len(images)
        figure, axes = plt.subplots(rows, cols, figsize=(1.3 + 0.75 * cols, 0.35 + 0.8 * rows), squeeze=False)
        for col, (name, column) in enumerate(images.items()):
            axes[0][col].set_title(titles[name], fontsize=7)
            for row in range(rows):
                axes[row][col].imshow(column[row], interpolation="nearest" if column.shape[1] < 128 else "antialiased")
                axes[row][col].set_xticks([])
                axes[row][col].set_yticks([])
                axes[row][col].spines[:].set_visible(False)
        for row, prompt in enumerate(prompts):
            short = textwrap.fill(textwrap.shorten(prompt, 66, placeholder=" ..."), 22)
            axes[row][0].set_ylabel(short, rotation=0, ha="right", va="center", fontsize=6)
        return figure
