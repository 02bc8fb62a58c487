"""Three measures of each layer side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style

PANELS = {
    "miou": ("mIoU of the\nI2T masks (%)", TEXT_COLOR),
    "class_r2": ("R² of the features\nfrom the class", IMAGE_COLOR),
    "text_to_image": ("text / image\nvalue norm", "#009E73"),
}


def agreement_figure(table: pd.DataFrame, correlations: Mapping[str, float]) -> Figure:
    """A panel for each measure over layers, with its largest value marked.

    Args:
        table: made by `studies.layer_agreement.layer_agreement`.
        correlations: rank correlation of each measure with the masks' mIoU.
    """
    with house_style():
        figure, axes = plt.subplots(1, len(PANELS), figsize=(6.6, 2.2), squeeze=False, sharex=True)
        for ax, (name, (label, color)) in zip(axes[0], PANELS.items(), strict=True):
            best = table.loc[table[name].idxmax()]
            values = 100 * table[name] if name == "miou" else table[name]
            ax.axvline(best["layer"], color=GUIDE_COLOR, linestyle=":", linewidth=1)
            ax.plot(table["layer"], values, color=color, marker="o", markersize=3)
            ax.set_ylim(min(0, 1.1 * values.min()), 1.12 * values.max())
            rank = f", rank corr. {correlations[name]:+.2f}" if name in correlations else ""
            ax.set_title(f"layer {best['layer']:.0f}{rank}")
            ax.set_ylabel(label)
            ax.set_xlabel("layer")
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        return figure
