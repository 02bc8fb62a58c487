"""Figures of principal components, and of how much position and class explain of the features."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style, time_label

ACROSS = 12
"""Most layers side by side."""
FEW_TOKENS = 12
"""Up to so many tokens the panels of query, key and value stand side by side, else below each other."""
SOURCES = {"position_r2": ("row and column", IMAGE_COLOR, "o"), "class_r2": ("class", TEXT_COLOR, "s")}
LINES = {"query": ":", "key": "--", "value": "-"}


def pca_page(colors: xr.DataArray, image: np.ndarray, steps: int | None = None) -> Figure:
    """The image tokens at one timestep: rows are query, key and value, columns are layers.

    ``colors`` (layer, feature, row, col, component) in [0, 1] are three components as red, green and blue; ``image`` is
    (height, width, 3) uint8 RGB. ``steps``, the number of sampling steps, is named with each timestep if it is given.
    """
    layers, features = colors["layer"].values, colors["feature"].values
    bands = -(-len(layers) // ACROSS)
    across = -(-len(layers) // bands)
    shape = colors.shape[2:4]
    with house_style():
        tile = 0.62 * shape[0] / max(shape)
        size = (max(4.2, 0.62 * (across + 1) + 0.5), max(1.6, bands * (len(features) * (tile + 0.03) + 0.25) + 0.35))
        figure, axes = plt.subplots(bands * len(features), across + 1, figsize=size, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.012, h_pad=0.012, wspace=0.02, hspace=0.02)
        for ax in axes.flat:
            ax.axis("off")
        axes[0, 0].imshow(image)
        for index, layer in enumerate(layers):
            first, col = index // across * len(features), 1 + index % across
            axes[first, col].set_title(f"layer {layer}" if index % across == 0 else str(layer), pad=2)
            for number, feature in enumerate(features):
                axes[first + number, col].imshow(colors.values[index, number], interpolation="nearest")
                if col == 1:
                    _row_label(axes[first + number, col], str(feature))
        time = time_label(colors["timestep"], colors["sigma"], steps)
        figure.suptitle(f"Components 1, 2, 3 as red, green, blue; {time}", fontsize=9)
        return figure


def text_page(colors: xr.DataArray, steps: int | None = None) -> Figure:
    """The text tokens at one timestep: a panel for query, key and value, tokens along x, layers along y.

    ``colors`` (layer, feature, token, component) in [0, 1] are three components as red, green and blue, with the
    coordinate ``token_text`` if it is known. ``steps``, the number of sampling steps, is named with each timestep if it is given.
    """
    features, names = colors["feature"].values, token_names(colors)
    size = colors.sizes
    beside = size["token"] <= FEW_TOKENS
    with house_style():
        wide, high = 0.17 * size["token"] + 0.4, 0.11 * size["layer"] + 0.2
        shape = (1, len(features)) if beside else (len(features), 1)
        longest = 0.055 * max(len(name) for name in names)
        total = (max(4.2, shape[1] * wide + 0.4), 0.5 + shape[0] * high + longest)
        figure, axes = plt.subplots(*shape, figsize=total, squeeze=False, sharex=True, sharey=True)
        for ax, feature in zip(axes.flat, features, strict=True):
            plot_tokens(ax, colors.sel(feature=feature), names)
            ax.set_title(str(feature), pad=3)
        for ax in axes[:, 0]:
            ax.set_ylabel("layer")
        time = time_label(colors["timestep"], colors["sigma"], steps)
        figure.suptitle(f"Text tokens: components 1, 2, 3 as red, green, blue; {time}", fontsize=9)
        return figure


def plot_tokens(ax: Axes, colors: xr.DataArray, names: list[str]) -> None:
    """Draw colors (layer, token, component) as a sheet, with each token's string below it."""
    shown = colors.values
    known = np.isfinite(shown).all(-1, keepdims=True)
    ax.imshow(np.where(known, shown, 1), aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(names)), names, rotation=90)
    layers = colors["layer"].values
    every = -(-len(layers) // 12)
    ax.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    ax.tick_params(length=0, pad=2)
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.grid(which="minor", axis="x", color="white", linewidth=0.8)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)


def token_names(colors: xr.DataArray) -> list[str]:
    """Each token's label: its text, its kind if it is a special token, its position if neither is known."""
    if "token_text" not in colors.coords:
        return [str(number) for number in range(colors.sizes["token"])]
    pairs = zip(colors["token_text"].values, colors["token_kind"].values, strict=True)
    return [f"[{kind}]" if kind in ("start", "end", "padding", "absent") else str(text) for text, kind in pairs]


def _row_label(ax: Axes, text: str) -> None:
    ax.text(-0.08, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center")


def plot_r2(ax: Axes, frame: pd.DataFrame, source: str) -> None:
    """R² of query, key and value by layer; ``frame`` is of one timestep, ``source`` a key of `SOURCES`."""
    name, color, marker = SOURCES[source]
    for feature, line in LINES.items():
        rows = frame[frame["feature"] == feature].sort_values("layer")
        ax.plot(rows["layer"], rows[source], line, color=color, marker=marker, markersize=3, label=feature)
    ax.axhline(0, color=GUIDE_COLOR, linewidth=0.6)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.set_title(f"R² from {name}")


def r2_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """A row per timestep: R² from position, and from the class if it is known; ``table`` is a `pca_table`.

    ``steps``, the number of sampling steps, is named with each timestep if it is given.
    """
    table = table[table["stream"] == "image"]
    timesteps = sorted(table["timestep"].unique())
    sources = [source for source in SOURCES if table[source].notna().any()] or ["position_r2"]
    with house_style():
        size = (max(3.6, 3.15 * len(sources)), 0.5 + 2.0 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(sources), figsize=size, squeeze=False, sharey=True)
        for row, timestep in zip(axes, timesteps, strict=True):
            frame = table[table["timestep"] == timestep]
            for ax, source in zip(row, sources, strict=True):
                plot_r2(ax, frame, source)
            row[0].set_ylabel(f"adjusted R²\n{time_label(timestep, frame['sigma'].iloc[0], steps)}")
        handles = [plt.Line2D([], [], color=GUIDE_COLOR, linestyle=line) for line in LINES.values()]
        figure.legend(handles, list(LINES), loc="outside lower center", ncols=3)
        return figure
