"""Figures of MAGNET: training losses, and attention and masks before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style

LOSSES = {"flow": "flow matching", "focal": "focal", "dice": "dice"}
SIDES = {"before": (GUIDE_COLOR, "--", "o"), "after": (TEXT_COLOR, "-", "s")}
ATTENTION = {
    "i2t": "I2T mass (%)",
    "text_to_image": "text / image value norm",
    "prompt_to_image": "words / image value norm",
}


def losses_figure(table: pd.DataFrame) -> Figure:
    """A panel per loss: each step's value, and the running mean over a twentieth of the steps; ``table`` is losses.csv."""
    window = max(1, len(table) // 20)
    with house_style():
        figure, axes = plt.subplots(1, len(LOSSES), figsize=(6.6, 2.0))
        for ax, (name, title) in zip(axes, LOSSES.items(), strict=True):
            ax.plot(table["step"], table[name], color=IMAGE_COLOR, lw=0.5, alpha=0.35)
            smooth = table[name].rolling(window, center=True, min_periods=1).mean()
            ax.plot(table["step"], smooth, color=IMAGE_COLOR)
            ax.set_title(title)
            ax.set_xlabel("step")
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[0].set_ylabel("loss before weighting")
        return figure


def attention_figure(table: pd.DataFrame, layer: int) -> Figure:
    """Panels of I2T mass and value norms by layer, before and after; a dotted line marks the trained layer.

    ``table`` is made by `magnet.compare.compare_attention`.
    """
    shown = [name for name in ATTENTION if table[name].notna().any()]
    with house_style():
        figure, axes = plt.subplots(1, len(shown), figsize=(0.6 + 2.2 * len(shown), 2.3), squeeze=False)
        for ax, name in zip(axes[0], shown, strict=True):
            ax.axvline(layer, color=GUIDE_COLOR, lw=0.8, ls=":")
            for side, (color, line, marker) in SIDES.items():
                rows = table[table["side"] == side].sort_values("layer")
                values = 100 * rows[name] if name == "i2t" else rows[name]
                ax.plot(rows["layer"], values, line, color=color, marker=marker, markersize=3, label=side)
            ax.set_title(ATTENTION[name])
            ax.set_xlabel("layer")
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SIDES))
        return figure


@dataclass(frozen=True, eq=False)
class MaskRow:
    """An image and its label maps in colors, each (height, width, 3) uint8; ``colors`` (classes, 3) are those of ``names``."""

    names: tuple[str, ...]
    colors: np.ndarray
    image: np.ndarray
    truth: np.ndarray
    before: np.ndarray
    after: np.ndarray


def _key(ax: Axes, row: MaskRow) -> None:
    """The names of a row's classes, each with a square of its color, left of the image."""
    count = len(row.names)
    for number, (name, color) in enumerate(zip(row.names, row.colors, strict=True)):
        height = 1 - (number + 0.5) / max(count, 4) - (max(count, 4) - count) / (2 * max(count, 4))
        ax.plot([-0.08], [height], "s", color=color / 255, markersize=4, transform=ax.transAxes, clip_on=False)
        short = textwrap.shorten(name, 26, placeholder=" ...")
        ax.text(
            -0.16, height, short, transform=ax.transAxes, ha="right", va="center", fontsize=min(6.0, 40 / max(count, 1))
        )


def masks_figure(rows: Sequence[MaskRow]) -> Figure:
    """A row per image: the image, the true masks, and the masks before and after; on the left the key of its colors."""
    titles = ("image", "truth", "before", "after")
    with house_style():
        figure, axes = plt.subplots(len(rows), 4, figsize=(4.6, 0.3 + 0.85 * len(rows)), squeeze=False)
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
        for line, row in zip(axes, rows, strict=True):
            for ax, image in zip(line, (row.image, row.truth, row.before, row.after), strict=True):
                ax.imshow(image, interpolation="nearest" if len(image) < 128 else "antialiased")
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            _key(line[0], row)
        return figure
