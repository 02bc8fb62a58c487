"""What an edit takes from each metric, layer by layer, or what each guidance scale gains, with intervals."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .style import GUIDE_COLOR, TEXT_COLOR, house_style

_PANEL = 2.2
"""Width of a panel, in inches; it grows with what is edited, by `_EACH`."""
_EACH = 0.07
_TICK, _LETTER = 0.1, 0.065
"""Room that a label needs, and each of its characters, in inches."""
METRIC_NAMES = {
    "clip_t": "CLIP-T",
    "clip_i": "CLIP-I",
    "clip_score": "CLIPScore",
    "dino": "DINO",
    "scene": "scene facts",
}

_UPRIGHT = 6
"""Letters of the longest label above which labels stand on end."""
_LETTER = 0.07
"""Inches of height that a letter on end takes."""


def _changed(table: pd.DataFrame) -> pd.Series:
    """Which rows are not plain images'."""
    key = table.columns[0]
    return table[key].notna() & ~((key == "scale") & (table[key] == 0)) & (table[key].astype(str) != "plain")


def dots_and_bars(table: pd.DataFrame) -> str:
    """What dots and bars of `drop_figure` are, for the line under it; from how few prompts there are none."""
    if table.loc[_changed(table), "low"].isna().any():
        return "dots: averages; too few prompts for intervals"
    return "dots: averages over prompts, bars: 95% intervals over prompts, of each dot alone"


def drop_figure(table: pd.DataFrame, label: str, ylabel: str = "average drop from plain") -> Figure:
    """A panel for each metric: the drop (or gain) with its 95% interval for each changed layer or scale.

    A row without an interval is drawn as a hollow dot.

    Args:
        table: made by `studies.paired_metrics.drop_table` or `studies.guidance.gain_table`; plain's rows are left out.
        label: what its first column is, on the x axis.
        ylabel: what a drop or gain is, on the y axis.
    """
    key, change = table.columns[0], "drop" if "drop" in table else "gain"
    with house_style():
        names = list(dict.fromkeys(table["metric"]))
        changed = table[_changed(table)]
        labels = [value if isinstance(value, str) else f"{value:g}" for value in changed[key].unique()]
        longest, panel = max(map(len, labels), default=0), max(_PANEL, _EACH * len(labels))
        upright = longest > _UPRIGHT
        every = 1 if upright else _every(labels, 0.75 * panel)
        size = (1.0 + panel * len(names), 2.2 + _LETTER * longest * upright)
        figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False)
        for ax, name in zip(axes[0], names, strict=True):
            own = changed[changed["metric"] == name]
            spread = [(own[change] - own["low"]).clip(lower=0), (own["high"] - own[change]).clip(lower=0)]
            places, known = range(len(own)), bool(own["low"].notna().all())
            look = {"mfc": TEXT_COLOR if known else "none", "yerr": spread if known else None}
            few = len(own) <= 16
            ax.errorbar(
                places,
                own[change],
                fmt="o",
                markersize=3 if few else 2,
                color=TEXT_COLOR,
                capsize=2 if few else 0,
                lw=1,
                **look,
            )
            ax.axhline(0, color=GUIDE_COLOR, lw=0.8, ls=":")
            ax.set_xticks(places[::every], labels[::every], rotation=90 * upright)
            ax.set_title(METRIC_NAMES.get(name, name))
            ax.set_xlabel(label)
        axes[0][0].set_ylabel(ylabel)
        return figure


def _every(labels: list[str], width: float) -> int:
    """Of how many labels one is written, so that they fit side by side into a width in inches."""
    room = _TICK + _LETTER * max(map(len, labels), default=0)
    return max(1, -(-len(labels) // max(1, int(width / room))))
