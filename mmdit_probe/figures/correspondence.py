"""Figures of correspondence: how often layers are right, where the matches of two images lie, and frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, house_style, time_label

_PANELS = {"accuracy": "found where it went", "on_thing": "found on the thing", "same_place": "found where it was"}
_CHANCES = {"accuracy": "chance", "on_thing": "on_chance"}


def moved_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """Shares in percent of the moved thing's tokens by layer, a line for each timestep; dotted is chance.

    ``table`` is a `studies.correspondence_tables.moved_table`; bars are its intervals. ``steps``, the number of sampling steps,
    is named with each timestep if it is given.
    """
    with house_style():
        figure, axes = plt.subplots(1, len(_PANELS), figsize=(6.9, 2.4), sharey=True)
        for ax, (name, title) in zip(axes, _PANELS.items(), strict=True):
            for color, timestep, own in _timesteps(table):
                label = time_label(timestep, own["sigma"].iloc[0], steps)
                look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 2.5, "label": label}
                bars = None
                if name == "accuracy" and own["low"].notna().all():
                    sides = [
                        (own["accuracy"] - own["low"]).clip(lower=0),
                        (own["high"] - own["accuracy"]).clip(lower=0),
                    ]
                    bars = [100 * side.to_numpy() for side in sides]
                ax.errorbar(own["layer"], 100 * own[name], yerr=bars, capsize=1.5, elinewidth=0.7, **look)
            if name in _CHANCES:
                chance = 100 * table[_CHANCES[name]].mean()
                ax.axhline(chance, color=GUIDE_COLOR, linestyle=":", linewidth=1, label="chance")
            ax.set_title(title)
            _layers(ax)
        axes[0].set_ylim(0, None)
        axes[0].set_ylabel("tokens of the moved thing (%)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure


def images_figure(
    first: np.ndarray,
    second: np.ndarray,
    tokens: Sequence[tuple[int, int]],
    places: np.ndarray,
    grid: tuple[int, int],
) -> Figure:
    """Two images; numbered dots are places of the first, and of the second where they are matched to.

    Args:
        first, second: (height, width, 3) uint8.
        tokens: (row, col) of the first image's grid.
        places: (tokens, 2) rows and columns of the second.
        grid: rows and columns of tokens.
    """
    colors = plt.get_cmap("hsv")(np.linspace(0, 0.9, len(tokens)))
    with house_style():
        figure, axes = plt.subplots(1, 2, figsize=(6.3, 3.4))
        for ax, image, dots in zip(axes, (first, second), (np.array(tokens), places), strict=True):
            ax.imshow(
                image, extent=(0, grid[1], grid[0], 0), aspect=image.shape[0] / image.shape[1] * grid[1] / grid[0]
            )
            ax.scatter(dots[:, 1] + 0.5, dots[:, 0] + 0.5, s=28, color=colors, edgecolors="black", linewidths=0.8)
            taken: dict[tuple[float, float], list[str]] = {}
            for number, (row, col) in enumerate(dots):
                taken.setdefault((float(row), float(col)), []).append(str(number + 1))
            for (row, col), numbers in taken.items():
                place = {"xytext": (0, 4.5), "textcoords": "offset points", "ha": "center", "va": "bottom"}
                box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
                ax.annotate(",".join(numbers), (col + 0.5, row + 0.5), fontsize=6, bbox=box, **place)
            ax.set_axis_off()
        axes[0].set_title("first image")
        axes[1].set_title("matches in the second image")
        return figure


def frames_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """By layer, a line for each frame that is matched to: confidence, distance in tokens and, if read, mass; a row per timestep.

    ``table`` is a `studies.correspondence_tables.frames_table`.
    """
    panels = {
        "confidence": "confidence of the match",
        "distance": "tokens from the same place",
        "mass": "attention to the frame",
    }
    shown = {name: title for name, title in panels.items() if name in table}
    timesteps = sorted(table["timestep"].unique())
    with house_style():
        size = (2.3 * len(shown), 0.5 + 1.9 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(shown), figsize=size, squeeze=False, sharey="col")
        frames = sorted(table["to_frame"].unique(), key=int)
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(frames)))
        for row, timestep in zip(axes, timesteps, strict=True):
            own = table[table["timestep"] == timestep]
            for ax, (name, title) in zip(row, shown.items(), strict=True):
                for color, frame in zip(colors, frames, strict=True):
                    one = own[own["to_frame"] == frame]
                    ax.plot(one["layer"], one[name], color=color, marker="o", markersize=2.5, label=f"frame {frame}")
                ax.set_title(title)
                ax.set_ylim(0, None)
                _layers(ax)
            row[0].set_ylabel(time_label(timestep, own["sigma"].iloc[0], steps), fontsize=7)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        return figure


def _timesteps(table: pd.DataFrame) -> list[tuple[Any, int, pd.DataFrame]]:
    timesteps = sorted(table["timestep"].unique())
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(timesteps)))
    return [
        (color, timestep, table[table["timestep"] == timestep])
        for color, timestep in zip(colors, timesteps, strict=True)
    ]


def _layers(ax: Axes) -> None:
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
