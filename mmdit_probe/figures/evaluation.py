"""mIoU of masks by layer, timestep and head; the tables' fractions are drawn in percent."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style


def evaluation_figure(table: pd.DataFrame, trivial: pd.DataFrame, steps: int | None = None) -> Figure:
    """A panel for each matching: mIoU by layer, a line for each timestep (Seg4Diff, Fig. 8, 15).

    Args:
        table: `Evaluation.settings`, with one head or several; if several, each dot is a head and the lines join the best.
        trivial: `Evaluation.trivial`, drawn as dotted lines; may be empty.
        steps: the number of sampling steps, named with each timestep if it is given.
    """
    with house_style():
        matchings = list(table["matching"].unique())
        size = (3.6 * len(matchings), 2.6)
        figure, axes = plt.subplots(1, len(matchings), figsize=size, squeeze=False, sharey=True)
        for axis, matching in zip(axes[0], matchings, strict=True):
            own = trivial[trivial["matching"] == matching] if len(trivial) else trivial
            draw_layers(axis, table[table["matching"] == matching], own, steps)
            if len(matchings) > 1:
                axis.set_title(f"{matching} matching")
        axes[0][0].set_ylim(0, None)  # shared by all panels, once all are drawn
        heads = table["head"].nunique()
        axes[0][0].set_ylabel("mIoU (%)" if heads == 1 else "mIoU (%); dots: heads, line: the best")
        axes[0][0].legend(fontsize=6.5)
        return figure


def draw_layers(ax: Axes, table: pd.DataFrame, trivial: pd.DataFrame, steps: int | None = None) -> None:
    """One panel of `evaluation_figure`; bars are 95% intervals over images where the table has them."""
    of = "" if steps is None else f" of {steps}"
    timesteps = sorted(table["timestep"].unique())
    colors = plt.get_cmap("viridis")
    for number, timestep in enumerate(timesteps):
        own = table[table["timestep"] == timestep]
        best = own.groupby("layer")["miou"].max()
        color = colors(0.85 * number / max(1, len(timesteps) - 1))
        label = f"t = {timestep}{of} (sigma {own['sigma'].iloc[0]:.2f})"
        ax.plot(best.index, 100 * best, marker="o", markersize=3, color=color, label=label)
        if own["head"].nunique() == 1 and "low" in own and own["low"].notna().all():
            sides = [(own["miou"] - own["low"]).clip(lower=0), (own["high"] - own["miou"]).clip(lower=0)]
            bars: dict[str, Any] = {"yerr": [100 * side for side in sides], "fmt": "none", "capsize": 1.5, "lw": 0.7}
            ax.errorbar(own["layer"], 100 * own["miou"], color=color, **bars)
        if own["head"].nunique() > 1:
            ax.plot(own["layer"], 100 * own["miou"], ".", markersize=2, color=color, alpha=0.5)
    for _, row in trivial.iterrows():
        ax.axhline(100 * row["miou"], color=GUIDE_COLOR, linestyle=":", linewidth=0.8)
        name, height = row["baseline"].replace(" on ", "\non "), 100 * row["miou"]
        ax.annotate(name, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="layer")


def heads_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """mIoU of every layer (column) and head (row) of `Evaluation.settings` (Seg4Diff, Fig. 17).

    A panel for each timestep, of the first matching only. ``steps``, the number of sampling steps, is named with each timestep
    if it is given.
    """
    of = "" if steps is None else f" of {steps}"
    with house_style():
        table = table[table["matching"] == table["matching"].iloc[0]]
        timesteps = sorted(table["timestep"].unique())
        layers, heads = table["layer"].nunique(), table["head"].nunique()
        size = (1 + len(timesteps) * max(2.0, 0.16 * layers), 0.9 + max(1.2, 0.16 * heads))
        figure, axes = plt.subplots(1, len(timesteps), figsize=size, squeeze=False, sharey=True)
        scale = Normalize(100 * table["miou"].min(), 100 * table["miou"].max())
        for axis, timestep in zip(axes[0], timesteps, strict=True):
            own = table[table["timestep"] == timestep].assign(head=lambda frame: frame["head"].astype(int))
            grid = own.pivot(index="head", columns="layer", values="miou")
            image = axis.imshow(100 * grid, norm=scale, cmap="viridis", aspect="auto")
            axis.set_xticks(range(layers), grid.columns, fontsize=6)
            axis.set_yticks(range(heads), grid.index, fontsize=6)
            axis.set(xlabel="layer", title=f"t = {timestep}{of} (sigma {own['sigma'].iloc[0]:.2f})")
            axis.spines[:].set_visible(False)
        axes[0][0].set_ylabel("head")
        figure.colorbar(image, ax=list(axes[0]), label="mIoU (%)")
        return figure


def timesteps_figure(table: pd.DataFrame, expert: int) -> Figure:
    """mIoU by timestep of `Evaluation.settings`, a line for each layer, with sigma above (Seg4Diff, Fig. 15).

    The ``expert`` layer is in color. Of the first matching only.
    """
    table = table[table["matching"] == table["matching"].iloc[0]]
    with house_style():
        figure, ax = plt.subplots(figsize=(3.6, 2.7))
        for layer, own in table.groupby("layer"):
            ordered, chosen = own.sort_values("timestep"), layer == expert
            style = {"color": TEXT_COLOR, "lw": 1.6, "zorder": 3} if chosen else {"color": GUIDE_COLOR, "lw": 0.7}
            label = f"layer {layer}" if chosen else None if ax.get_legend_handles_labels()[0] else "other layers"
            ax.plot(ordered["timestep"], 100 * ordered["miou"], marker="o", markersize=2.5, label=label, **style)
        steps = table.drop_duplicates("timestep").sort_values("timestep")
        ax.set(xlabel="timestep, counted from the clean end", ylabel="mIoU (%)", ylim=(0, None))
        above = ax.secondary_xaxis("top")
        shown = steps.iloc[:: max(1, -(-len(steps) // 6))]
        above.set_xticks(shown["timestep"], [f"{sigma:.2f}" for sigma in shown["sigma"]])
        above.set_xlabel("sigma")
        ax.legend(fontsize=6.5)
        return figure


def directions_figure(table: pd.DataFrame, expert: int) -> Figure:
    """mIoU by layer of masks from I2T and from T2I (Seg4Diff, Fig. 16); a dotted line marks the ``expert`` layer.

    ``table`` has the columns ``direction``, ``layer``, ``miou`` in [0, 1], ``timestep`` and ``sigma``.
    """
    looks = {"i2t": ("I2T: image queries", TEXT_COLOR, "o"), "t2i": ("T2I: text queries", IMAGE_COLOR, "s")}
    with house_style():
        figure, ax = plt.subplots(figsize=(3.6, 2.4))
        for direction, (label, color, marker) in looks.items():
            own = table[table["direction"] == direction].sort_values("layer")
            ax.plot(own["layer"], 100 * own["miou"], marker=marker, markersize=3, color=color, label=label)
        ax.axvline(expert, color=GUIDE_COLOR, linestyle=":", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = f"t = {table['timestep'].iloc[0]} (sigma {table['sigma'].iloc[0]:.3f})"
        ax.set(xlabel="layer", ylabel="mIoU (%)", ylim=(0, None), title=title)
        ax.legend(fontsize=6.5)
        return figure
