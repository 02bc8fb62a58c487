"""The figure of the attention budget."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style


def plot_budget(ax: Axes, frame: pd.DataFrame, queries: str) -> None:
    """Mass per layer that ``queries`` ("image" or "text") give to image and to text, with spread and uniform lines.

    ``frame`` is a budget table of one timestep.
    """
    start = queries[0].upper()
    for key, color in (("I", IMAGE_COLOR), ("T", TEXT_COLOR)):
        rows = frame[frame["region"] == f"{start}2{key}"].sort_values("layer")
        label = f"{start}2{key}: {queries} to {'image' if key == 'I' else 'text'}"
        ax.plot(rows["layer"], rows["mass"], color=color, marker="o", markersize=2.5, label=label)
        ax.fill_between(
            rows["layer"], rows["mass"] - rows["spread"], rows["mass"] + rows["spread"], color=color, alpha=0.2, lw=0
        )
        ax.axhline(rows["uniform"].iloc[0], color=color, linestyle=":", linewidth=1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def budget_figure(table: pd.DataFrame) -> Figure:
    """Seg4Diff's Fig. 2 b, c: a row per timestep, image queries left, text queries right where there are any."""
    with house_style():
        timesteps = sorted(table["timestep"].unique())
        asking = ["image", "text"] if table.loc[table["region"] == "T2I", "mass"].notna().any() else ["image"]
        size = (6.3 if len(asking) == 2 else 3.8, 0.5 + 1.9 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(asking), figsize=size, squeeze=False, sharey=True)
        for row, timestep in zip(axes, timesteps, strict=True):
            frame = table[table["timestep"] == timestep]
            for ax, queries in zip(row, asking, strict=True):
                plot_budget(ax, frame, queries)
                ax.set_title(f"{queries} queries, t = {timestep} (sigma {frame['sigma'].iloc[0]:.3f})")
            row[0].set_ylabel("share of attention")
        handles = axes[0][0].get_legend_handles_labels()[0]
        guide = plt.Line2D([], [], color=GUIDE_COLOR, linestyle=":", linewidth=1)
        names = ["I2I / T2I: to image", "I2T / T2T: to text", "uniform attention"]
        figure.legend([*handles, guide], names, loc="outside lower center", ncols=3 if len(asking) == 2 else 1)
        return figure
