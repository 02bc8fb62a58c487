"""Sheets of layers and heads."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator


def plot_sheet(ax: Axes, frame: pd.DataFrame, values: str, top: float) -> Any:
    """Draw the column ``values`` of a frame with ``layer`` (x) and ``head`` (y) as colors from 0 to ``top``; returns the image."""
    sheet = frame.pivot(index="head", columns="layer", values=values)
    shown = ax.imshow(sheet, vmin=0, vmax=top, cmap="viridis", aspect="auto", interpolation="nearest")
    every = max(1, -(-sheet.shape[1] // 8))
    ax.set_xticks(range(0, sheet.shape[1], every), [str(layer) for layer in sheet.columns[::every]])
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    return shown
