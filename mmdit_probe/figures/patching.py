"""Causal tracing: a map of layers by steps for each measure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .drops import METRIC_NAMES
from .style import house_style


def move_figure(table: pd.DataFrame) -> Figure:
    """A panel for each metric of a `studies.patching.move_table`: percent of the way toward the source's image.

    Layers from left to right, the step from which on they are patched from top to bottom.
    """
    with house_style():
        names = list(dict.fromkeys(table["metric"]))
        maps = [
            100 * table[table["metric"] == name].pivot(index="steps_from", columns="layer", values="moved")
            for name in names
        ]
        rows, cols = maps[0].shape
        size = (1.2 + min(max(1.2, 0.2 * cols), 4.8) * len(names), 0.9 + 0.25 * max(2, rows))
        figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharey=True)
        most = max(1.0, float(np.nanmax(np.abs(np.stack(maps)))) if not np.isnan(np.stack(maps)).all() else 1.0)
        for ax, name, values in zip(axes[0], names, maps, strict=True):
            shown = ax.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
            every = max(1, cols // 6)
            ax.set_xticks(range(0, cols, every), [str(layer) for layer in values.columns[::every]])
            ax.set_yticks(range(rows), [str(start) for start in values.index])
            ax.set_title(METRIC_NAMES.get(name, name))
            ax.set_xlabel("patched layer")
        axes[0][0].set_ylabel("from step")
        figure.colorbar(shown, ax=list(axes[0]), label="of the way (%)")
        return figure
