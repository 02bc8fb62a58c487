"""The figure of head statistics, shares in percent."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .sheets import plot_sheet
from .style import house_style, time_label

PANELS = {
    "effective_tokens": "text tokens looked at",
    "on_word": "mass on words",
    "on_start": "mass on the start token",
    "on_padding": "mass on padding",
}


def heads_figure(heads: pd.DataFrame, steps: int | None = None) -> Figure:
    """A row per timestep: effective number of text tokens, and mass on words, start and padding, by layer and head.

    ``heads`` is a `heads_table`. ``steps``, the number of sampling steps, is named with each timestep if it is given.
    """
    timesteps = sorted(heads["timestep"].unique())
    panels = [name for name in PANELS if heads[name].notna().any()]
    shares = [name for name in panels if name != "effective_tokens"]
    heads = heads.assign(**{name: 100 * heads[name] for name in shares})
    with house_style():
        size = (1.0 + 1.75 * len(panels), 0.75 + 1.75 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(panels), figsize=size, squeeze=False, sharex=True, sharey=True)
        tops = {"effective_tokens": heads["effective_tokens"].max()}
        share = max((heads[name].max() for name in shares), default=100)
        for column, name in enumerate(panels):
            for row, timestep in zip(axes, timesteps, strict=True):
                chosen = heads[heads["timestep"] == timestep]
                shown = plot_sheet(row[column], chosen, name, tops.get(name, share))
                row[0].set_ylabel(f"{time_label(timestep, chosen['sigma'].iloc[0], steps)}\nhead")
            axes[0][column].set_title(PANELS[name])
            axes[-1][column].set_xlabel("layer")
            unit = "exp(entropy)" if name in tops else "share of attention (%)"
            figure.colorbar(shown, ax=axes[:, column], location="bottom", label=unit, aspect=15)
        return figure
