"""The figure of leakage: how much of words' maps lies on other objects by layer, and between which classes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, house_style

COLORS = {"i2t": "#D55E00", "t2i": "#0072B2", "output": "#009E73", "concept": "#CC79A7", "contribution": "#000000"}
MARKERS = {"i2t": "o", "t2i": "s", "output": "^", "concept": "D", "contribution": "v"}


def leakage_figure(table: pd.DataFrame, worst: pd.DataFrame, where: str, steps: int | None = None) -> Figure:
    """A panel for each timestep: leakage in percent by layer, a line for each reading; then the pairs that leak most.

    Args:
        table: a `studies.leakage_tables.layers_table`; bars are its intervals, the dotted line what a flat map has.
        worst: `worst_pairs` of one reading, layer and timestep, which ``where`` names; may be empty.
        where: as above.
        steps: the number of sampling steps, named with each timestep if it is given.
    """
    timesteps = sorted(table["timestep"].unique())
    count = len(timesteps) + (not worst.empty)
    of = "" if steps is None else f" of {steps}"
    with house_style():
        height = max(2.5, 0.9 + 0.17 * len(worst))
        figure, axes = plt.subplots(1, count, figsize=(3.3 * count, height), squeeze=False)
        for ax, timestep in zip(axes[0], timesteps, strict=False):
            own = table[table["timestep"] == timestep]
            draw_leakage(ax, own)
            ax.set_title(f"t = {timestep}{of} (sigma {own['sigma'].iloc[0]:.3f})")
        top = max(100 * max(table["leakage"].max(), table["high"].max(), table["flat"].max()), 1) * 1.08
        for ax in axes[0][: len(timesteps)]:
            ax.set_ylim(0, top)
        axes[0][0].set_ylabel("map on other objects (%)")
        if not worst.empty:
            draw_pairs(axes[0][-1], worst, where)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6)
        return figure


def draw_leakage(ax: Axes, table: pd.DataFrame) -> None:
    """One timestep: leakage in percent by layer, or by reading where layers were put together, with 95% intervals."""
    together = table["layer"].map(lambda layer: isinstance(layer, str)).all()
    reads = list(table["read"].unique())
    for number, (read, own) in enumerate(table.groupby("read", sort=False)):
        places = np.array([reads.index(str(read))]) if together else own["layer"].to_numpy().astype(int)
        look: dict[str, Any] = {
            "color": COLORS[str(read)],
            "marker": MARKERS[str(read)],
            "markersize": 3,
            "label": read,
        }
        sides = [(own["leakage"] - own["low"]).clip(lower=0), (own["high"] - own["leakage"]).clip(lower=0)]
        bars = None if own["low"].isna().any() else [100 * side.to_numpy() for side in sides]
        beside = 0.0 if together else 0.08 * (number - (len(reads) - 1) / 2)
        ax.errorbar(places + beside, 100 * own["leakage"], yerr=bars, capsize=1.5, elinewidth=0.7, **look)
    ax.axhline(100 * table["flat"].mean(), color=GUIDE_COLOR, linestyle=":", linewidth=1, label="a flat map")
    if together:
        ax.set_xticks(range(len(reads)), reads)
        ax.set_xlim(-0.5, len(reads) - 0.5)
    else:
        ax.set_xlabel("layer")
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def draw_pairs(ax: Axes, worst: pd.DataFrame, where: str) -> None:
    """A bar for each pair of a word and another object: its share of the map, in times of what a flat map has."""
    places = np.arange(len(worst))[::-1]
    ax.barh(places, worst["times_flat"], height=0.7, color=GUIDE_COLOR, alpha=0.7)
    names = [f"{row['word']} on {row['object']} ({row['n']})" for _, row in worst.iterrows()]
    ax.set_yticks(places, names, fontsize=6)
    ax.axvline(1, color=GUIDE_COLOR, linestyle=":", linewidth=1)
    ax.set_xlabel("times a flat map")
    ax.set_title(f"most leaking pairs (images)\n{where}", fontsize=7.5)
