"""The figure of neglected words: what each word adds against the others, layer by layer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from .style import GUIDE_COLOR, house_style

PANELS = {"contribution_against": "what the word adds", "i2t_against": "attention to the word"}
MOST = 12
"""Words drawn one by one; of more, the median of those that are missing and of those that are not."""


def neglect_figure(table: pd.DataFrame, words: pd.DataFrame, threshold: float) -> Figure:
    """Contribution left, I2T right, each against the prompt's other words, mean over timesteps, by layer.

    ``table`` is a `layers_table`, ``words`` a `words_table`; the dashed line is the threshold.
    """
    frame = table.merge(words[["prompt", "word", "missing"]], on=["prompt", "word"])
    with house_style():
        figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.6), sharey=True)
        for ax, (name, title) in zip(axes, PANELS.items(), strict=True):
            for label, rows in _lines(frame, len(words)):
                by_layer = rows.groupby("layer")[name].median()
                ax.plot(by_layer.index, by_layer, marker="o", markersize=2.5, label=label)
            _finish(ax, title)
        axes[0].axhline(threshold, color=GUIDE_COLOR, linestyle="--", linewidth=1)
        axes[0].set_ylabel("times the other words")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4 if len(words) <= MOST else 2)
        return figure


def _lines(frame: pd.DataFrame, words: int) -> list[tuple[str, pd.DataFrame]]:
    """A line's label and rows: each word, or missing and present words if there are many."""
    if words <= MOST:
        several = frame["prompt"].nunique() > 1
        groups = frame.groupby(["prompt", "word"], sort=False)
        numbers = {prompt: number + 1 for number, prompt in enumerate(frame["prompt"].unique())}
        return [(f"{word} ({numbers[prompt]})" if several else str(word), rows) for (prompt, word), rows in groups]
    kinds = {"missing in the image": frame["missing"] == 1, "in the image": frame["missing"] == 0}
    kinds["not known"] = frame["missing"].isna()
    return [
        (f"{kind}: median of {rows.groupby(['prompt', 'word']).ngroups} words", rows)
        for kind, chosen in kinds.items()
        if len(rows := frame[chosen])
    ]


def _finish(ax: Axes, title: str) -> None:
    ax.axhline(1, color=GUIDE_COLOR, linestyle=":", linewidth=1)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the house draws no formulas
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("layer")
    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
