"""Scores of masks by layer, timestep and head."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOUR, house_style


def evaluation_figure(views: pd.DataFrame, baselines: pd.DataFrame) -> Figure:
    """A panel for each matching: mIoU by layer, a line for each timestep, baselines dotted (Seg4Diff, Fig. 8, 15).

    ``views`` has one head, or several: then each point is a head and the lines join the best ones.
    """
    with house_style():
        matchings = list(views["matching"].unique())
        size = (3.6 * len(matchings), 2.6)
        figure, axes = plt.subplots(1, len(matchings), figsize=size, squeeze=False, sharey=True)
        for axis, matching in zip(axes[0], matchings, strict=True):
            own = baselines[baselines["matching"] == matching] if len(baselines) else baselines
            draw_layers(axis, views[views["matching"] == matching], own)
            if len(matchings) > 1:
                axis.set_title(f"{matching} matching")
        axes[0][0].set_ylim(0, None)  # of all panels, when all are drawn
        heads = views["head"].nunique()
        axes[0][0].set_ylabel("mIoU (%)" if heads == 1 else "mIoU (%); dots: heads, line: the best")
        axes[0][0].legend(fontsize=6.5)
        return figure


def draw_layers(ax: Axes, views: pd.DataFrame, baselines: pd.DataFrame) -> None:
    """One panel of `evaluation_figure`."""
    timesteps = sorted(views["timestep"].unique())
    colours = plt.get_cmap("viridis")
    for number, timestep in enumerate(timesteps):
        rows = views[views["timestep"] == timestep]
        best = rows.groupby("layer")["miou"].max()
        colour = colours(0.85 * number / max(1, len(timesteps) - 1))
        label = f"t = {timestep} (sigma {rows['sigma'].iloc[0]:.2f})"
        ax.plot(best.index, 100 * best, marker="o", markersize=3, color=colour, label=label)
        if rows["head"].nunique() > 1:
            ax.plot(rows["layer"], 100 * rows["miou"], ".", markersize=2, color=colour, alpha=0.5)
    for _, row in baselines.iterrows():
        ax.axhline(100 * row["miou"], color=GUIDE_COLOUR, linestyle=":", linewidth=0.8)
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
