"""Scores of masks by layer, timestep and head."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style


def evaluation_figure(views: pd.DataFrame, trivial: pd.DataFrame) -> Figure:
    """A panel for each matching: mIoU by layer, a line for each timestep, trivial dotted (Seg4Diff, Fig. 8, 15).

    ``views`` has one head, or several: then each point is a head and the lines join the best ones.
    """
    with house_style():
        matchings = list(views["matching"].unique())
        size = (3.6 * len(matchings), 2.6)
        figure, axes = plt.subplots(1, len(matchings), figsize=size, squeeze=False, sharey=True)
        for axis, matching in zip(axes[0], matchings, strict=True):
            own = trivial[trivial["matching"] == matching] if len(trivial) else trivial
            draw_layers(axis, views[views["matching"] == matching], own)
            if len(matchings) > 1:
                axis.set_title(f"{matching} matching")
        axes[0][0].set_ylim(0, None)  # of all panels, when all are drawn
        heads = views["head"].nunique()
        axes[0][0].set_ylabel("mIoU (%)" if heads == 1 else "mIoU (%); dots: heads, line: the best")
        axes[0][0].legend(fontsize=6.5)
        return figure


def draw_layers(ax: Axes, views: pd.DataFrame, trivial: pd.DataFrame) -> None:
    """One panel of `evaluation_figure`."""
    timesteps = sorted(views["timestep"].unique())
    colors = plt.get_cmap("viridis")
    for number, timestep in enumerate(timesteps):
        rows = views[views["timestep"] == timestep]
        best = rows.groupby("layer")["miou"].max()
        color = colors(0.85 * number / max(1, len(timesteps) - 1))
        label = f"t = {timestep} (sigma {rows['sigma'].iloc[0]:.2f})"
        ax.plot(best.index, 100 * best, marker="o", markersize=3, color=color, label=label)
        if rows["head"].nunique() > 1:
            ax.plot(rows["layer"], 100 * rows["miou"], ".", markersize=2, color=color, alpha=0.5)
    for _, row in trivial.iterrows():
        ax.axhline(100 * row["miou"], color=GUIDE_COLOR, linestyle=":", linewidth=0.8)
        name, height = row["baseline"].replace(" on ", "\non "), 100 * row["miou"]
        ax.annotate(name, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="layer")


def heads_figure(views: pd.DataFrame) -> Figure:
    """mIoU of every layer (column) and head (row), a panel for each timestep of the first matching (Seg4Diff, Fig. 17)."""
    with house_style():
        views = views[views["matching"] == views["matching"].iloc[0]]
        timesteps = sorted(views["timestep"].unique())
        layers, heads = views["layer"].nunique(), views["head"].nunique()
        size = (1 + len(timesteps) * max(2.0, 0.16 * layers), 0.9 + max(1.2, 0.16 * heads))
        figure, axes = plt.subplots(1, len(timesteps), figsize=size, squeeze=False, sharey=True)
        scale = Normalize(100 * views["miou"].min(), 100 * views["miou"].max())
        for axis, timestep in zip(axes[0], timesteps, strict=True):
            rows = views[views["timestep"] == timestep].assign(head=lambda frame: frame["head"].astype(int))
            grid = rows.pivot(index="head", columns="layer", values="miou")
            image = axis.imshow(100 * grid, norm=scale, cmap="viridis", aspect="auto")
            axis.set_xticks(range(layers), grid.columns, fontsize=6)
            axis.set_yticks(range(heads), grid.index, fontsize=6)
            axis.set(xlabel="layer", title=f"t = {timestep} (sigma {rows['sigma'].iloc[0]:.2f})")
            axis.spines[:].set_visible(False)
        axes[0][0].set_ylabel("head")
        figure.colorbar(image, ax=list(axes[0]), label="mIoU (%)")
        return figure


def timesteps_figure(views: pd.DataFrame, expert: int) -> Figure:
    """mIoU by timestep, a line for each layer, the expert layer in color; sigma above (Seg4Diff, Fig. 15)."""
    views = views[views["matching"] == views["matching"].iloc[0]]
    with house_style():
        figure, ax = plt.subplots(figsize=(3.6, 2.7))
        for layer, rows in views.groupby("layer"):
            ordered, chosen = rows.sort_values("timestep"), layer == expert
            style = {"color": TEXT_COLOR, "lw": 1.6, "zorder": 3} if chosen else {"color": GUIDE_COLOR, "lw": 0.7}
            label = f"layer {layer}" if chosen else None if ax.get_legend_handles_labels()[0] else "other layers"
            ax.plot(ordered["timestep"], 100 * ordered["miou"], marker="o", markersize=2.5, label=label, **style)
        steps = views.drop_duplicates("timestep").sort_values("timestep")
        ax.set(xlabel="timestep, counted from the clean end", ylabel="mIoU (%)", ylim=(0, None))
        above = ax.secondary_xaxis("top")
        shown = steps.iloc[:: max(1, -(-len(steps) // 6))]
        above.set_xticks(shown["timestep"], [f"{sigma:.2f}" for sigma in shown["sigma"]])
        above.set_xlabel("sigma")
        ax.legend(fontsize=6.5)
        return figure


def directions_figure(table: pd.DataFrame, expert: int) -> Figure:
    """mIoU by layer of masks from I2T and from T2I; ``table`` has direction, layer, miou, timestep and sigma (Fig. 16)."""
    looks = {"i2t": ("I2T: image queries", TEXT_COLOR, "o"), "t2i": ("T2I: text queries", IMAGE_COLOR, "s")}
    with house_style():
        figure, ax = plt.subplots(figsize=(3.6, 2.4))
        for direction, (label, color, marker) in looks.items():
            rows = table[table["direction"] == direction].sort_values("layer")
            ax.plot(rows["layer"], 100 * rows["miou"], marker=marker, markersize=3, color=color, label=label)
        ax.axvline(expert, color=GUIDE_COLOR, linestyle=":", linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = f"t = {table['timestep'].iloc[0]} (sigma {table['sigma'].iloc[0]:.3f})"
        ax.set(xlabel="layer", ylabel="mIoU (%)", ylim=(0, None), title=title)
        ax.legend(fontsize=6.5)
        return figure
