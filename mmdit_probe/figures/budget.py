"""The figure of the attention budget, in percent."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..attention.layout import OTHERS
from .style import (
    GUIDE_COLOR,
    IMAGE_COLOR,
    KIND_COLORS,
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


def plot_kinds(ax: Axes, kinds: pd.DataFrame) -> None:
    """Mass in percent on each kind of text token in each layer, stacked. ``kinds`` is a `kinds_table` of one timestep."""
    below = None
    for kind, color in KIND_COLORS.items():
        rows = kinds[kinds["kind"] == kind].sort_values("layer")
        if rows.empty:
            continue
        mass = 100 * rows["mass"].to_numpy()
        below = np.zeros_like(mass) if below is None else below
        ax.bar(rows["layer"], mass, bottom=below, width=0.85, color=color, label=kind)
        below = below + mass
    ax.set_xlim(kinds["layer"].min() - 0.7, kinds["layer"].max() + 0.7)  # no tick of a layer that is not there
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def budget_figure(table: pd.DataFrame, steps: int | None = None, kinds: pd.DataFrame | None = None) -> Figure:
    """A row per timestep: image queries left, text queries right if the model has any (Seg4Diff, Fig. 2 b, c).

    With reference images, a third column shows their queries. ``table`` is a `budget_table`. ``steps``, the number of sampling
    steps, is named with each timestep if it is given. With ``kinds``, a `kinds_table`, as many rows follow that show the text's
    part by kinds of tokens.
    """
    kinds = kinds if kinds is not None and len(kinds) else None
    with house_style():
        timesteps = sorted(table["timestep"].unique())
        asking = ["image", *(name for name, region in (("text", "T2I"), ("reference", "R2I")) if _has(table, region))]
        count = len(timesteps) * (1 if kinds is None else 2)
        size = ({1: 3.8, 2: 6.3, 3: 8.8}[len(asking)], 0.5 + 1.9 * count)
        figure, axes = plt.subplots(count, len(asking), figsize=size, squeeze=False, sharey="row")
        for row, timestep in zip(axes, timesteps, strict=False):
            frame = table[table["timestep"] == timestep]
            for ax, queries in zip(row, asking, strict=True):
                plot_budget(ax, frame, queries)
                ax.set_title(f"{queries} queries, {time_label(timestep, frame['sigma'].iloc[0], steps)}")
            row[0].set_ylabel("share of attention (%)")
        handles = axes[0][0].get_legend_handles_labels()[0]
        guide = plt.Line2D([], [], color=GUIDE_COLOR, linestyle=":", linewidth=1)
        handles.append(guide)
        names = [_legend(table, key) for key in _ANSWERING if key in "IT" or _has(table, f"I2{key}")]
        names.append("uniform attention")
        if (table["spread"] > 0).any():
            handles.append(spread_patch())
            names.append(SPREAD)
        if kinds is not None:
            _add_kinds(axes[len(timesteps) :], kinds, asking, timesteps, steps)
            found = axes[-1][0].get_legend_handles_labels()
            handles, names = [*handles, *found[0]], [*names, *(f"to text: {kind}" for kind in found[1])]
        columns = len(asking) if len(names) < 5 else 1 if len(asking) == 1 else 3
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
        return figure


def _add_kinds(
    axes: np.ndarray, kinds: pd.DataFrame, asking: Sequence[str], timesteps: Sequence[float], steps: int | None
) -> None:
    """The rows of the kinds, a timestep each, all with one axis up to their largest sum: text is a small part of many tokens."""
    for row, timestep in zip(axes, timesteps, strict=True):
        frame = kinds[kinds["timestep"] == timestep]
        for ax, queries in zip(row, asking, strict=True):
            of_these = frame[frame["queries"] == queries]
            if of_these.empty:
                ax.axis("off")
                continue
            plot_kinds(ax, of_these)
            ax.set_title(f"{queries} to text, {time_label(timestep, frame['sigma'].iloc[0], steps)}")
        row[0].set_ylabel("share of attention (%)")
    top = max(ax.get_ylim()[1] for ax in axes[:, 0])
    for ax in axes[:, 0]:
        ax.set_ylim(0, top)


def _has(table: pd.DataFrame, region: str) -> bool:
    """Whether the model has the region."""
    return bool(table.loc[table["region"] == region, "mass"].notna().any())


def _legend(table: pd.DataFrame, key: str) -> str:
    regions = ["I2", "T2", *(["R2"] if _has(table, "R2I") else [])]
    return f"{' / '.join(region + key for region in regions)}: to {_ANSWERING[key][0]}"
