"""What an edit takes from each score, layer by layer, with intervals."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import GUIDE_COLOR, TEXT_COLOR, house_style

SCORE_NAMES = {"clip_t": "CLIP-T", "clip_i": "CLIP-I", "dino": "DINO", "scene": "scene score"}


def drop_figure(table: pd.DataFrame, ticks: Mapping[str, str], label: str, ylabel: str = "drop from plain") -> Figure:
    """A panel per score: ``drop`` with its 95% interval for each variant in ``ticks``."""
    with house_style():
        names = list(dict.fromkeys(table["score"]))
        figure, axes = plt.subplots(1, len(names), figsize=(1.0 + 2.2 * len(names), 2.2), squeeze=False)
        for ax, name in zip(axes[0], names, strict=True):
            rows = table[(table["score"] == name) & table["variant"].isin(list(ticks))]
            spread = [(rows["drop"] - rows["low"]).clip(lower=0), (rows["high"] - rows["drop"]).clip(lower=0)]
            places = range(len(rows))
            ax.errorbar(places, rows["drop"], yerr=spread, fmt="o", markersize=3, color=TEXT_COLOR, capsize=2, lw=1)
            ax.axhline(0, color=GUIDE_COLOR, lw=0.8, ls=":")
            ax.set_xticks(list(places), [ticks[variant] for variant in rows["variant"]])
            ax.set_title(SCORE_NAMES.get(name, name))
            ax.set_xlabel(label)
        axes[0][0].set_ylabel(ylabel)
        return figure
