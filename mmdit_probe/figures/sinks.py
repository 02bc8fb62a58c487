"""The figure of attention sinks: how strong the strongest key of each head is, and what it is."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from .style import GUIDE_COLOR, IMAGE_COLOR, KIND_COLORS, house_style, time_label

COLORS = {**KIND_COLORS, "text": "#8B4513", "corner": "#000000", "first frame": "#7F3FBF", "image": IMAGE_COLOR}
OTHERS = ("#F0E442", "#66A61E", "#E7298A", "#1B9E77")
"""Of tokens that are neither image nor text, such as registers, in the order in which they occur."""


def sinks_figure(table: pd.DataFrame, kinds: pd.DataFrame, steps: int | None = None) -> Figure:
    """A row per timestep: left, each head's strongest key in times uniform; right, which share of heads has which kind.

    ``table`` is a `sinks_table`, ``kinds`` its `kinds_table`. ``steps``, the number of sampling steps, is named with each
    timestep if it is given.
    """
    strongest, colors = table[table["rank"] == 1], kind_colors(table)
    with house_style():
        timesteps = sorted(table["timestep"].unique())
        size = (6.3, 0.6 + 2.1 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), 2, figsize=size, squeeze=False, sharey="col")
        for (left, right), timestep in zip(axes, timesteps, strict=True):
            chosen = strongest[strongest["timestep"] == timestep]
            plot_strength(left, chosen, colors)
            plot_shares(right, kinds[kinds["timestep"] == timestep], colors)
            left.set_title(f"strongest key of each head\n{time_label(timestep, chosen['sigma'].iloc[0], steps)}")
            right.set_title("what it is\n")
        marks = [Line2D([], [], marker="o", ls="", color=color, markersize=4) for color in colors.values()]
        guide = Line2D([], [], color=GUIDE_COLOR, linestyle=":", linewidth=1)
        figure.legend([*marks, guide], [*colors, "uniform attention"], loc="outside lower center", ncols=4)
        return figure


def kind_colors(table: pd.DataFrame) -> dict[str, str]:
    """A color for each kind that is the strongest somewhere, in a fixed order."""
    found = set(table.loc[table["rank"] == 1, "kind"])
    others = sorted(found - set(COLORS))
    known = {**COLORS, **{kind: OTHERS[number % len(OTHERS)] for number, kind in enumerate(others)}}
    return {kind: color for kind, color in known.items() if kind in found}


def plot_strength(ax: Axes, strongest: pd.DataFrame, colors: dict[str, str]) -> None:
    """A dot for each prompt and head by layer: the mass of its strongest key in times uniform, on a log scale."""
    heads = max(1, strongest["head"].nunique())
    for kind, color in colors.items():
        rows = strongest[strongest["kind"] == kind]
        beside = 0.7 * ((rows["head"] + 0.5) / heads - 0.5)  # heads side by side
        ax.scatter(rows["layer"] + beside, rows["times_uniform"], s=5, color=color, linewidths=0, alpha=0.8)
    ax.axhline(1, color=GUIDE_COLOR, linestyle=":", linewidth=1)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the house draws no formulas
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel("times uniform")
    _layers(ax)


def plot_shares(ax: Axes, kinds: pd.DataFrame, colors: dict[str, str]) -> None:
    """Share of heads in percent whose strongest key is of a kind, stacked, by layer."""
    layers = np.array(sorted(kinds["layer"].unique()))
    below = np.zeros(len(layers))
    for kind, color in colors.items():
        share = 100 * kinds[kinds["kind"] == kind].set_index("layer")["share"].reindex(layers, fill_value=0).to_numpy()
        ax.bar(layers, share, bottom=below, width=0.85, color=color)
        below += share
    ax.set_ylim(0, 100)
    ax.set_ylabel("share of heads (%)")
    _layers(ax)


def _layers(ax: Axes) -> None:
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
