"""The signs of an expert layer, side by side."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import GUIDE_COLOR, IMAGE_COLOR, TEXT_COLOR, house_style

_PANELS = {
    "word_information": "word information (nats)",
    "value_norm_ratio": "text / image value norm",
    "coherence": "map coherence (Moran's I)",
    "selectivity": "selectivity of words",
    "blur_sensitivity": "change by blur",
    "miou": "mIoU of masks (%)",
}


def expert_figure(table: pd.DataFrame) -> Figure:
    """A panel for each sign over the layers; a dotted line marks the layer with the most information.

    ``table`` is made by `studies.expert_layer.find_expert`, and has ``miou`` if it went through `with_masks`.
    """
    with house_style():
        names = [name for name in _PANELS if name in table]
        figure, axes = plt.subplots(1, len(names), figsize=(1.95 * len(names), 1.9), squeeze=False)
        best = table.loc[table["word_information"].idxmax(), "layer"]
        for ax, name in zip(axes[0], names, strict=True):
            values, color = (100 * table[name], TEXT_COLOR) if name == "miou" else (table[name], IMAGE_COLOR)
            ax.plot(table["layer"], values, color=color, marker="o", markersize=2.5)
            ax.axvline(best, color=GUIDE_COLOR, lw=0.8, ls=":")
            ax.set_title(_PANELS[name])
            ax.set_xlabel("layer")
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        return figure
