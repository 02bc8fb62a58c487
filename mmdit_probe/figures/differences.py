"""The figure of the difference between two records, shares in percentage points."""

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
"""Okabe-Ito's colors, each with its own marker."""


def plot_difference(ax: Axes, frame: pd.DataFrame, factor: float = 1) -> None:
    """``factor`` (B - A) by layer, a line per part; ``frame`` is of one measure and one timestep."""
    for number, (part, rows) in enumerate(frame.groupby("part", sort=False)):
        ordered, style = rows.sort_values("layer"), number % len(COLORS)
        line = "-" if number < len(COLORS) else "--"
        ax.plot(
            ordered["layer"], factor * ordered["difference"], line, color=COLORS[style], marker=MARKERS[style], markersize=3,
            label=str(part),
        )  # fmt: skip
    ax.axhline(0, color=GUIDE_COLOR, linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4))


def that_differ(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the measures and parts that differ in some layer and timestep."""
    largest = table.groupby(["measure", "part"])["difference"].transform(lambda found: found.abs().max())
    return table[largest > 0]


def difference_figure(
    table: pd.DataFrame, units: Mapping[str, str], names: Mapping[str, str], steps: int | None = None
) -> Figure:
    """A row per measure, a column per timestep; measures and parts without any difference are left out.

    Args:
        table: made by `studies.diff.compare`.
        units: the unit of each measure; of a "share of ..." percentage points are drawn.
        names: each measure's name in words.
        steps: the number of sampling steps, named with each timestep if it is given.
    """
    step = "timestep" if "timestep" in table else "call"
    times, table = sorted(table[step].unique()), that_differ(table)
    measures = list(table["measure"].unique())
    of = "" if steps is None else f" of {steps}"
    with house_style():
        size = (2.4 + 2.5 * len(times), 0.4 + 1.35 * max(len(measures), 1))
        figure, axes = plt.subplots(
            max(len(measures), 1), len(times), figsize=size, squeeze=False, sharex=True, sharey="row"
        )
        for row, measure in zip(axes, measures, strict=False):
            chosen, share = table[table["measure"] == measure], units[measure].startswith("share")
            for ax, at in zip(row, times, strict=True):
                plot_difference(ax, chosen[chosen[step] == at], 100 if share else 1)
            unit = f"{units[measure]} (% points)" if share else units[measure]
            row[0].set_ylabel(f"{names[measure]}\n{unit}", fontsize=6.5)
            if (chosen["part"] != "").any():
                row[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=6.5, borderaxespad=0)
        for ax, at in zip(axes[0], times, strict=True):
            ax.set_title(f"B minus A, {f't = {at}{of}' if step == 'timestep' else f'call {at}'}")
            if not measures:
                ax.text(0.5, 0.5, "no difference anywhere", transform=ax.transAxes, ha="center", va="center")
        for ax in axes[-1]:
            ax.set_xlabel("layer")
        figure.align_ylabels(axes[:, 0])
        return figure
