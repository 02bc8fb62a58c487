"""The pages of principal components, and the lines that say what the features vary with."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOUR, IMAGE_COLOUR, TEXT_COLOUR, house_style

ACROSS = 12
"""Layers side by side at most."""
SOURCES = {"position_r2": ("row and column", IMAGE_COLOUR, "o"), "class_r2": ("class", TEXT_COLOUR, "s")}
LINES = {"query": ":", "key": "--", "value": "-"}


def pca_page(colours: xr.DataArray, picture: np.ndarray) -> Figure:
    """One timestep: rows are query, key and value, columns are layers, three components as red, green and blue.

    ``colours`` is (layer, feature, row, col, component) in [0, 1]; ``picture`` (height, width, 3) uint8.
    """
    layers, features = colours["layer"].values, colours["feature"].values
    bands = -(-len(layers) // ACROSS)
    across = -(-len(layers) // bands)
    shape = colours.shape[2:4]
    with house_style():
        tile = 0.62 * shape[0] / max(shape)
        size = (max(4.2, 0.62 * (across + 1) + 0.5), max(1.6, bands * (len(features) * (tile + 0.03) + 0.25) + 0.35))
        figure, axes = plt.subplots(bands * len(features), across + 1, figsize=size, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.012, h_pad=0.012, wspace=0.02, hspace=0.02)
        for ax in axes.flat:
            ax.axis("off")
        axes[0, 0].imshow(picture)
        for index, layer in enumerate(layers):
            first, col = index // across * len(features), 1 + index % across
            axes[first, col].set_title(f"layer {layer}" if index % across == 0 else str(layer), pad=2)
            for number, feature in enumerate(features):
                axes[first + number, col].imshow(colours.values[index, number], interpolation="nearest")
                if col == 1:
                    _row_label(axes[first + number, col], str(feature))
        sigma = f"t = {int(colours['sampling_timestep'])} (sigma {float(colours['sigma']):.3f})"
        figure.suptitle(f"Components 1, 2, 3 as red, green, blue; {sigma}", fontsize=9)
        return figure


def _row_label(ax: Axes, text: str) -> None:
    ax.text(-0.08, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center")


def plot_r2(ax: Axes, frame: pd.DataFrame, source: str) -> None:
    """R^2 of query, key and value per layer; ``frame`` is of one timestep, ``source`` a key of `SOURCES`."""
    name, colour, marker = SOURCES[source]
    for feature, line in LINES.items():
        rows = frame[frame["feature"] == feature].sort_values("layer")
        ax.plot(rows["layer"], rows[source], line, color=colour, marker=marker, markersize=3, label=feature)
    ax.axhline(0, color=GUIDE_COLOUR, linewidth=0.6)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.set_title(f"R² from {name}")


def r2_figure(table: pd.DataFrame) -> Figure:
    """A row per timestep: R^2 from position, and from the class where it is known; ``table`` is a `pca_table`."""
    timesteps = sorted(table["timestep"].unique())
    sources = [source for source in SOURCES if table[source].notna().any()] or ["position_r2"]
    with house_style():
        size = (max(3.6, 3.15 * len(sources)), 0.5 + 2.0 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(sources), figsize=size, squeeze=False, sharey=True)
        for row, timestep in zip(axes, timesteps, strict=True):
            frame = table[table["timestep"] == timestep]
            for ax, source in zip(row, sources, strict=True):
                plot_r2(ax, frame, source)
            row[0].set_ylabel(f"adjusted R²\nt = {timestep} (sigma {frame['sigma'].iloc[0]:.3f})")
        handles = [plt.Line2D([], [], color=GUIDE_COLOUR, linestyle=line) for line in LINES.values()]
        figure.legend(handles, list(LINES), loc="outside lower center", ncols=3)
        return figure
