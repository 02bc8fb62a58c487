"""The figure of the differences between two records."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, house_style

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dvx+"
"""Okabe-Ito's colors, each with a marker of its own."""


def plot_difference(ax: Axes, frame: pd.DataFrame) -> None:
    """B - A per layer, a line per part; ``frame`` is of one measure and one timestep."""
    for number, (part, rows) in enumerate(frame.groupby("part", sort=False)):
        ordered, style = rows.sort_values("layer"), number % len(COLORS)
        line = "-" if number < len(COLORS) else "--"
        ax.plot(
            ordered["layer"], ordered["difference"], line, color=COLORS[style], marker=MARKERS[style], markersize=3,
            label=str(part),
        )  # fmt: skip
    ax.axhline(0, color=GUIDE_COLOR, linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4))


def difference_figure(table: pd.DataFrame, units: Mapping[str, str]) -> Figure:
    """A row per measure, a column per timestep; ``table`` is made by `compare`, ``units`` says what its numbers are."""
    step = "timestep" if "timestep" in table else "call"
    measures, steps = list(table["measure"].unique()), sorted(table[step].unique())
    with house_style():
        size = (2.4 + 2.5 * len(steps), 0.4 + 1.35 * len(measures))
        figure, axes = plt.subplots(len(measures), len(steps), figsize=size, squeeze=False, sharex=True, sharey="row")
        for row, measure in zip(axes, measures, strict=True):
            chosen = table[table["measure"] == measure]
            for ax, at in zip(row, steps, strict=True):
                plot_difference(ax, chosen[chosen[step] == at])
            row[0].set_ylabel(f"{measure}\n{units[measure]}", fontsize=6.5)
            if (chosen["part"] != "").any():
                row[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=6.5, borderaxespad=0)
        for ax, at in zip(axes[0], steps, strict=True):
            ax.set_title(f"B minus A, {'t =' if step == 'timestep' else 'call'} {at}")
        for ax in axes[-1]:
            ax.set_xlabel("layer")
        figure.align_ylabels(axes[:, 0])
        return figure
