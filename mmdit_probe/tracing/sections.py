"""The parts of a report that have figures: what each shows, its figures, and how to read them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ..figures.budget import budget_figure
from ..figures.heads import heads_figure
from ..figures.norms import norms_figure
from ..figures.pca import pca_page, r2_figure
from ..figures.style import png_bytes
from ..pipelines.defaults import ModelDefaults
from ..studies import attention_budget as budget
from ..studies import value_norms as norms
from ..studies.feature_pca import colors, pca_table
from ..studies.overview import expert_line, highest_line, read_heads_aloud, tables

_PIXELS = 120
"""CSS px that an inch of a figure is shown with."""
DRAWS = Mapping[str, Callable[[], Figure]]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        lines: what it shows, a sentence each.
        how: how to read its figures.
        draws: what draws each of its figures, by the name of its file.
    """

    title: str
    lines: tuple[str, ...]
    how: str
    draws: DRAWS

    def pictures(self) -> Iterator[tuple[str, str, int]]:
        """Each figure's name, its PNG as a data URI, and its width in CSS px."""
        for name, draw in self.draws.items():
            figure = draw()
            code = base64.b64encode(png_bytes(figure)).decode()
            yield name.replace("_", " "), f"data:image/png;base64,{code}", round(_PIXELS * figure.get_size_inches()[0])


_BUDGET = (
    "Left, what image tokens look at; right, what text tokens look at. The two curves of a panel sum to 100%. Dotted lines are "
    "what they would give if they looked at all tokens alike: a curve above its dotted line is attention beyond the mere number "
    "of tokens."
)
_NORMS = (
    "What a token passes on is its value times the attention that it gets. A layer whose text values are much longer than its "
    "image values can move text into the image even with little attention; the paper's expert layer has such a ratio, in other "
    "models another layer may."
)
_HEADS = (
    "One cell a head. Effective tokens is exp(entropy): 1, a head looks at a single text token; large, it looks at all alike. "
    "Mass on the start token or on padding is attention that goes to no word: such tokens often serve as a sink. Heads with much "
    "mass on words are the ones to look at in the explorer."
)
_PCA = (
    "Image tokens in the colors of their first three principal components, separately for query, key and value. A smooth gradient "
    "is position; regions of one color that follow the image are content. The lines say how much of the features position alone "
    "explains (R²)."
)


def figure_sections(
    record: xr.Dataset, image: np.ndarray | None, defaults: ModelDefaults
) -> tuple[list[str], list[Section]]:
    """What is to be known first, a sentence each, and the parts with figures."""
    found, steps = tables(record), int(record.attrs["steps"])
    short = [expert_line(found["heads"], defaults), highest_line(found)]
    sections = [
        Section(
            "Attention budget",
            tuple(budget.summary(found["attention_budget"])),
            _BUDGET,
            {"attention_budget": lambda: budget_figure(found["attention_budget"], steps)},
        ),
        Section(
            "Value norms",
            tuple(norms.summary(found["value_norms"])),
            _NORMS,
            {"value_norms": lambda: norms_figure(found["value_norms"], steps)},
        ),
        Section(
            "Heads and sinks",
            tuple(read_heads_aloud(found["heads"])),
            _HEADS,
            {"heads": lambda: heads_figure(found["heads"], steps)},
        ),
    ]
    if "pca" in record:
        sections.append(Section("Principal components", (), _PCA, _pca_draws(record, image, steps)))
    return short, sections


def _pca_draws(record: xr.Dataset, image: np.ndarray | None, steps: int) -> DRAWS:
    shown = colors(record)
    blank = np.full((8, 8, 3), 255, np.uint8) if image is None else image
    draws: dict[str, Callable[[], Figure]] = {
        f"pca_t{timestep}": partial(pca_page, shown.sel(timestep=timestep), blank, steps)
        for timestep in record["timestep"].values.tolist()
    }
    return {**draws, "pca_r2": lambda: r2_figure(pca_table(record), steps)}
