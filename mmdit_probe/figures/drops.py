"""What an edit takes from each metric, layer by layer, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import GUIDE_COLOR, TEXT_COLOR, house_style

METRIC_NAMES = {"clip_t": "CLIP-T", "clip_i": "CLIP-I", "dino": "DINO", "scene": "scene facts"}


def drop_figure(table: pd.DataFrame, ticks: Mapping[str, str], label: str, ylabel: str = "drop from plain") -> Figure:
    """A panel for each metric: ``drop`` with its 95% interval for each variant in ``ticks``.

    Args:
        table: made by `studies.paired_metrics.drop_table`.
        ticks: tick labels by variant.
        label: what the variants are, on the x axis.
        ylabel: what a drop is, on the y axis.
    """
    with house_style():
        names = list(dict.fromkeys(table["metric"]))
        figure, axes = plt.subplots(1, len(names), figsize=(1.0 + 2.2 * len(names), 2.2), squeeze=False)
        for ax, name in zip(axes[0], names, strict=True):
            own = table[(table["metric"] == name) & table["variant"].isin(list(ticks))]
            spread = [(own["drop"] - own["low"]).clip(lower=0), (own["high"] - own["drop"]).clip(lower=0)]
            places = range(len(own))
            ax.errorbar(places, own["drop"], yerr=spread, fmt="o", markersize=3, color=TEXT_COLOR, capsize=2, lw=1)
            ax.axhline(0, color=GUIDE_COLOR, lw=0.8, ls=":")
            ax.set_xticks(list(places), [ticks[variant] for variant in own["variant"]])
            ax.set_title(METRIC_NAMES.get(name, name))
            ax.set_xlabel(label)
        axes[0][0].set_ylabel(ylabel)
        return figure
