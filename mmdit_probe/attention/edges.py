"""One region of a call presented as if it were image to text, so that what is written for I2T works on every region."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import pairwise

from .joint import JointAttention
from .layout import Region, TokenLayout, TokenStream


@dataclass(frozen=True)
class EdgeLayout(TokenLayout):
    """A layout whose image queries and text keys are the queries and keys of one region of another layout.

    Attributes:
        whole: the other layout.
        rows: positions of the region's queries. ``grid`` is theirs if ``on_grid``, else one row: of text, of several
            references, of a reference without a known grid.
        cols: positions of the region's keys; ``text`` is their number.
    """

    whole: TokenLayout = field(kw_only=True)
    rows: slice = field(kw_only=True, hash=False)
    cols: slice = field(kw_only=True, hash=False)
    on_grid: bool = field(kw_only=True)

    @property
    def queries(self) -> int:
        return self.whole.queries

    @property
    def keys(self) -> int:
        return self.whole.keys

    @property
    def image_queries(self) -> slice:
        return self.rows

    @property
    def text_keys(self) -> slice:
        return self.cols

    @property
    def regions(self) -> frozenset[Region]:
        return frozenset([Region.I2T])


def on_edge(attention: JointAttention, edge: Region, references: Collection[int] | None = None) -> JointAttention:
    """The call with one region as its I2T: its queries as the image's, its keys as the text's.

    ``references`` are numbers of reference images, from 1, as which R is meant; None for all. What the text positions hold is
    known where the keys are text.

    Raises:
        ValueError: the model has no such region or reference, or the references do not stand side by side.
    """
    layout = attention.layout
    if edge == Region.I2T:
        return attention
    if edge not in layout.regions or not (layout.text or TokenStream.TEXT not in (edge.asking, edge.answering)):
        found = ", ".join(region for region in Region if region in layout.regions)
        raise ValueError(f"edit: edge {edge} can't be edited in this model; choose from {found}")
    asking = _chosen(layout.queries_of(edge.asking), edge.asking, references)
    answering = _chosen(layout.keys_of(edge.answering), edge.answering, references)
    rows, cols = _joined(asking), _joined(answering)
    grid = _grid(layout, edge.asking, references)
    view = EdgeLayout(
        (1, rows.stop - rows.start) if grid is None else grid,
        cols.stop - cols.start,
        whole=layout,
        rows=rows,
        cols=cols,
        on_grid=grid is not None,
    )
    text = attention.text if edge.answering == TokenStream.TEXT else None
    return replace(attention, layout=view, text=text)


def _chosen(slices: list[slice], stream: TokenStream, references: Collection[int] | None) -> list[slice]:
    if stream != TokenStream.REFERENCE or references is None:
        return slices
    unknown = sorted(set(references) - set(range(1, 1 + len(slices))))
    if unknown or not references:
        raise ValueError(
            f"edit: reference images {unknown} do not exist; there are references 1 to {len(slices)}"
            if unknown
            else "edit: references must name at least one reference image, from 1, or be None for all"
        )
    return [slices[number - 1] for number in sorted(references)]


def _joined(slices: list[slice]) -> slice:
    """The slices as one; `ValueError` if there is something between them."""
    if any(one.stop != other.start for one, other in pairwise(slices)):
        raise ValueError(
            "edit: these reference images do not stand side by side; edit them one by one, each with references=[number]"
        )
    return slice(slices[0].start, slices[-1].stop)


def _grid(layout: TokenLayout, stream: TokenStream, references: Collection[int] | None) -> tuple[int, ...] | None:
    """The grid of the queries: the image's, or a single reference's if it is known."""
    if stream == TokenStream.IMAGE:
        return layout.grid
    numbers = range(1, 1 + len(layout.references)) if references is None else sorted(references)
    one = stream == TokenStream.REFERENCE and len(numbers) == 1
    return layout.references[numbers[0] - 1].grid if one else None
