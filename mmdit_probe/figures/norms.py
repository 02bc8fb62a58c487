"""The figures of value norms."""

from __future__ import annotations

import re
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .sheets import plot_sheet
from .style import IMAGE_COLOR, REFERENCE_COLOR, SPREAD, TEXT_COLOR, house_style, spread_patch, time_label

STREAMS = {
    "image": ("image tokens", IMAGE_COLOR, "o", "-"),
    "text": ("all text tokens", TEXT_COLOR, "s", "-"),
    "prompt": ("words of the prompt", "#009E73", "^", "--"),
}
"""Label, color, marker and line of each stream; see `drawn_streams` for reference images."""


def drawn_streams(names: Iterable[str]) -> dict[str, tuple[str, str, str, str]]:
    """Label, color, marker and line of the streams among ``names``, reference images included."""
    found = {name: STREAMS[name] for name in STREAMS if name in names}
    references = sorted(name for name in names if re.fullmatch("reference [0-9]+", name))
    dashes = ("-", "--", "-.", ":")
    return found | {
        name: (f"{name}'s tokens", REFERENCE_COLOR, "D", dashes[number % len(dashes)])
        for number, name in enumerate(references)
    }


def plot_norms(ax: Axes, frame: pd.DataFrame) -> None:
    """Each stream's mean value norm by layer, with its spread over prompts; ``frame`` is a `norms_table` of one timestep."""
    for stream, (label, color, marker, line) in drawn_streams(list(frame)).items():
        if frame[stream].isna().all():
            continue
        ax.plot(frame["layer"], frame[stream], line, color=color, marker=marker, markersize=3, label=label)
        low, high = frame[stream] - frame[f"{stream}_spread"], frame[stream] + frame[f"{stream}_spread"]
        ax.fill_between(frame["layer"], low, high, color=color, alpha=0.2, lw=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("layer")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def norms_figure(table: pd.DataFrame, steps: int | None = None) -> Figure:
    """A panel per timestep, a line per stream (Seg4Diff, Fig. 4).

    ``table`` is a `norms_table`. ``steps``, the number of sampling steps, is named with each timestep if it is given.
    """
    timesteps = sorted(table["timestep"].unique())
    with house_style():
        width = max(4.6, 3.15 * len(timesteps))
        figure, axes = plt.subplots(1, len(timesteps), figsize=(width, 2.6), squeeze=False, sharey=True)
        for ax, timestep in zip(axes[0], timesteps, strict=True):
            frame = table[table["timestep"] == timestep].sort_values("layer")
            plot_norms(ax, frame)
            ax.set_title(time_label(timestep, frame["sigma"].iloc[0], steps))
        axes[0][0].set_ylabel("mean L2 norm of the values")
        handles, labels = axes[0][0].get_legend_handles_labels()
        if (table[[f"{stream}_spread" for stream in drawn_streams(list(table))]] > 0).any(axis=None):
            handles, labels = [*handles, spread_patch()], [*labels, SPREAD]
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(handles) > 3 else 3)
        return figure


def norm_heads_figure(heads: pd.DataFrame, steps: int | None = None) -> Figure:
    """A row per timestep, a sheet of layers and heads per stream, one color scale for all (Seg4Diff, Fig. 28).

    ``heads`` is a `heads_table` of value norms. ``steps``, the number of sampling steps, is named with each timestep if it is
    given.
    """
    timesteps = sorted(heads["timestep"].unique())
    known = drawn_streams(heads["stream"].unique().tolist())
    streams = [s for s in known if heads.loc[heads["stream"] == s, "norm"].notna().any()]
    with house_style():
        size = (max(6.6, 2.2 * len(streams)), 0.8 + 2.1 * len(timesteps))
        figure, axes = plt.subplots(len(timesteps), len(streams), figsize=size, squeeze=False, sharex=True, sharey=True)
        top = heads["norm"].max()
        for row, timestep in zip(axes, timesteps, strict=True):
            for ax, stream in zip(row, streams, strict=True):
                chosen = heads[(heads["timestep"] == timestep) & (heads["stream"] == stream)]
                shown = plot_sheet(ax, chosen, "norm", top)
                ax.set_title(known[stream][0])
            row[0].set_ylabel(f"{time_label(timestep, chosen['sigma'].iloc[0], steps)}\nhead")
        for ax in axes[-1]:
            ax.set_xlabel("layer")
        figure.colorbar(shown, ax=axes, label="mean L2 norm of the values", shrink=0.9)
        return figure
