"""The figure of the attention budget, in percent."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..attention.layout import OTHERS
from .style import (
    GUIDE_COLOR,
    IMAGE_COLOR,
    REFERENCE_COLOR,
    SPREAD,
    TEXT_COLOR,
    house_style,
    spread_patch,
    time_label,
)

_ANSWERING = {
    "I": ("image", IMAGE_COLOR),
    "T": ("text", TEXT_COLOR),
    "R": ("references", REFERENCE_COLOR),
    OTHERS: ("other tokens", GUIDE_COLOR),
}


def plot_budget(ax: Axes, frame: pd.DataFrame, queries: str) -> None:
    """Mass in percent that ``queries`` ("image", "text" or "reference") give to each stream in each layer, with its spread.

    The streams are image and text, reference images if there are any, and the tokens of no stream if the table tells them.
    Dotted lines show the mass under uniform attention. ``frame`` is a `budget_table` of one timestep.
    """
    start = queries[0].upper()
    for key, (name, color) in _ANSWERING.items():
        rows = frame[frame["region"] == f"{start}2{key}"].sort_values("layer")
        if rows.empty and key not in "IT":
            continue
        mass, spread = 100 * rows["mass"], 100 * rows["spread"]
        label = f"{start}2{key}: {queries} to {name}"
        ax.plot(rows["layer"], mass, color=color, marker="o", markersize=2.5, label=label)
        ax.fill_between(rows["layer"], mass - spread, mass + spread, color=color, alpha=0.2, lw=0)
        ax.axhline(100 * rows["uniform"].iloc[0], color=color, linestyle=":", linewidth=1)
    ax.set_ylim(0, 100)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def budget_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """A row per timestep: image queries left, text queries right if the model has any (Seg4Diff, Fig. 2 b, c).

    With reference images, a third column shows their queries. ``table`` is a `budget_table`. ``steps``, the number of sampling
    steps, is named with each timestep if it is given.
    """
    with house_style():
        timesteps = sorted(table["timestep"].unique())
        asking = ["image", *(name for name, region in (("text", "T2I"), ("reference", "R2I")) if _has(table, region))]
        size = ({1: 3.8, 2: 6.3, 3: 8.8}[len(asking)], 0.5 + 1.9 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(asking), figsize=size, squeeze=False, sharey=True)
        for row, timestep in zip(axes, timesteps, strict=True):
            frame = table[table["timestep"] == timestep]
            for ax, queries in zip(row, asking, strict=True):
                plot_budget(ax, frame, queries)
                ax.set_title(f"{queries} queries, {time_label(timestep, frame['sigma'].iloc[0], steps)}")
            row[0].set_ylabel("share of attention (%)")
        handles = axes[0][0].get_legend_handles_labels()[0]
        guide = plt.Line2D([], [], color=GUIDE_COLOR, linestyle=":", linewidth=1)
        names = [_legend(table, key) for key in _ANSWERING if key in "IT" or _has(table, f"I2{key}")]
        if (table["spread"] > 0).any():
            handles.append(spread_patch())
            names.append(SPREAD)
        figure.legend(
            [*handles, guide],
            [*names, "uniform attention"],
            loc="outside lower center",
            ncols=len(asking) if len(names) < 4 else max(2, len(asking)),
        )
        return figure


def _has(table: pd.DataFrame, region: str) -> bool:
    """Whether the model has the region."""
    return bool(table.loc[table["region"] == region, "mass"].notna().any())


def _legend(table: pd.DataFrame, key: str) -> str:
    regions = ["I2", "T2", *(["R2"] if _has(table, "R2I") else [])]
    return f"{' / '.join(region + key for region in regions)}: to {_ANSWERING[key][0]}"
