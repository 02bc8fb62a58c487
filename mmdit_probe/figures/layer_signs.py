"""The signs of an expert layer by layer, with their intervals, at several timesteps."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, house_style

_PANELS = {
    "i2t_ratio": ("I2T mass / uniform", 1),
    "miou": ("mIoU of masks (%)", 100),
    "harm": ("harm by blur (%)", 100),
    "padding": ("of I2T to padding (%)", 100),
    "top_key": ("strongest key / uniform", 1),
}


def signs_figure(table: pd.DataFrame, labels: Mapping[int, str], single_from: int | None = None) -> Figure:
    """A panel for each sign over the layers, a line for each timestep, bars from ``low`` to ``high``.

    Args:
        table: made by `studies.layer_signs.over_seeds`.
        labels: what the timesteps are called.
        single_from: the first single-stream layer; the double-stream ones before it are shaded. None for no shade.
    """
    layers = table[pd.to_numeric(table["layer"], errors="coerce").notna()].astype({"layer": int})
    with house_style():
        figure, axes = plt.subplots(1, len(_PANELS), figsize=(1.9 * len(_PANELS), 2.1), squeeze=False)
        colors = plt.get_cmap("viridis")([0.1, 0.5, 0.8])
        for ax, (sign, (title, factor)) in zip(axes[0], _PANELS.items(), strict=True):
            for color, (timestep, label) in zip(colors, labels.items(), strict=False):
                own = layers[(layers["sign"] == sign) & (layers["timestep"] == timestep)].sort_values("layer")
                mean = factor * own["mean"]
                ax.plot(own["layer"], mean, color=color, marker="o", markersize=2.5, label=label)
                ax.vlines(own["layer"], factor * own["low"], factor * own["high"], color=color, lw=0.8)
            if sign in ("i2t_ratio", "top_key"):
                ax.axhline(1, color=GUIDE_COLOR, lw=0.8, ls=":")
            if single_from is not None:
                ax.axvspan(-0.5, single_from - 0.5, color=GUIDE_COLOR, alpha=0.15, lw=0)
            ax.set_title(title)
            ax.set_xlabel("layer")
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
        return figure
