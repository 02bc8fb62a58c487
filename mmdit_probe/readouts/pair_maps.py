"""PairMaps: what evenly spaced image positions attend to in the image and in reference images, and references in the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from .base import OverImageRows, Readout, Reduction
from .fields import Axis, Field, Fields

_NAME = "probability with which the {asking} query attends to the {answering} position, mean over heads"
_QUERY = "evenly spaced {} position that attends, as row,col (frame,row,col in a video)"


class PairMaps(Readout):
    """Maps of evenly spaced queries, at most ``queries`` of each image, means over heads.

    - ``i2i`` (batch, query, row, col): probability with which an image query attends to each image position.
    - ``i2r_pair_1`` (batch, query, reference_1_row, reference_1_col): with which it attends to each position of the first
      reference image; further ones are numbered on.
    - ``r2i_pair_1`` (batch, reference_1_query, row, col): with which a reference query attends to each image position.

    In [0, 1], of the joint softmax. All positions of a grid with no more than ``queries`` are read, of a larger one the
    middles of square cells, of a video those of its middle frame. There is no field of a region that the model lacks. The
    rows of the image queries are shared with other readouts in one pass.

    Raises:
        ValueError: ``queries`` is not at least 1.

    >>> from mmdit_probe import PairMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [PairMaps(16)], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> maps = probe.dataset("conditional")["i2i"].isel(call=0, batch=0, layer=0)
    >>> dict(maps.sizes), maps["query"].values[:3].tolist()
    ({'query': 16, 'row': 8, 'col': 8}, ['1,1', '1,3', '1,5'])
    """

    def __init__(self, queries: int = 256) -> None:
        if queries < 1:
            raise ValueError(f"PairMaps: queries must be at least 1, got {queries}")
        self.queries = queries

    def reduction(self, attention: JointAttention) -> Reduction:
        layout = attention.layout
        if Region.I2I not in layout.regions:
            return super().reduction(attention)
        places = lattice(layout.grid, self.queries)
        queries = torch.tensor([_flat(place, layout.grid) for place in places], device=attention.query.device)
        total = _Rows(attention, len(places), [layout.image_keys, *layout.reference_keys])

        def result() -> Fields:
            axis = Axis("query", _labels(places), _QUERY.format("image"))
            found = {"i2i": _field(total.maps[0], "query", layout.grid, layout.grid_dims, axis, "image", "image")}
            for number, reference in enumerate(layout.references, 1):
                grid, dims = reference_axes(number, reference.grid, reference.tokens)
                maps = total.maps[number]
                found[f"i2r_pair_{number}"] = _field(maps, "query", grid, dims, axis, "image", "reference")
            return {**found, **self._of_references(attention)}

        return OverImageRows(queries, total.add, result)

    def measure(self, attention: JointAttention) -> Fields:
        """Nothing: in plain cross-attention the image attends to text alone."""
        return {}

    def _of_references(self, attention: JointAttention) -> Fields:
        """What the queries of each reference attend to in the image; nothing of references that do not attend."""
        layout, fields = attention.layout, {}
        for number, rows in enumerate(layout.reference_queries, 1):
            reference = layout.references[number - 1]
            grid, _ = reference_axes(number, reference.grid, reference.tokens)
            places = lattice(grid, self.queries)
            flat = torch.tensor([rows.start + _flat(place, grid) for place in places], device=attention.query.device)
            total = _Rows(attention, len(places), [layout.image_keys])
            for asked, block in attention.key_rows(flat):
                total.add(torch.searchsorted(flat, asked), block)
            dim = f"reference_{number}_query"
            axis = Axis(dim, _labels(places), _QUERY.format("reference"))
            fields[f"r2i_pair_{number}"] = _field(
                total.maps[0], dim, layout.grid, layout.grid_dims, axis, "reference", "image"
            )
        return fields

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        if Region.I2I not in layout.regions:
            return 0
        count = len(lattice(layout.grid, self.queries)) * (layout.image + layout.reference)
        asking = layout.references if layout.reference_queries else ()
        return count + sum(min(self.queries, reference.tokens) * layout.image for reference in asking)


def lattice(grid: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """At most so many positions of a grid, evenly spaced: the middles of square cells, of a video in its middle frame.

    >>> lattice((4, 6), 6)
    [(1, 1), (1, 3), (1, 5), (3, 1), (3, 3), (3, 5)]
    >>> lattice((3, 2, 2), 2)
    [(1, 1, 1)]
    """
    rows, cols = grid[-2:]
    cell = cell_side((rows, cols), most)
    fixed = tuple(size // 2 for size in grid[:-2])
    middles = [
        [min(start + cell // 2, size - 1) for start in range(0, size, cell)] for size in (rows, cols)
    ]  # the last cell may be cut off by the border
    return [(*fixed, row, col) for row in middles[0] for col in middles[1]]


def cell_side(grid: tuple[int, int], most: int) -> int:
    """The side of the smallest square cells, at most so many of which cover a grid of (rows, cols)."""
    rows, cols = grid
    return next(
        side for side in range(1, max(rows, cols) + 1) if math.ceil(rows / side) * math.ceil(cols / side) <= most
    )


def reference_axes(number: int, grid: tuple[int, ...] | None, tokens: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """A reference image's grid and the names of its axes; a single row of tokens if its grid is not known."""
    sizes = (1, tokens) if grid is None else grid
    return sizes, tuple(f"reference_{number}_{name}" for name in ("frame", "row", "col")[-len(sizes) :])


class _Rows:
    """``maps`` of some queries onto several runs of keys, each (batch, query, keys), mean over heads."""

    def __init__(self, attention: JointAttention, queries: int, keys: Sequence[slice]) -> None:
        self.heads, self.keys = attention.heads, keys
        new: Callable[..., Tensor] = attention.query.new_zeros
        shapes = [(attention.batch, queries, run.stop - run.start) for run in keys]
        self.maps = [new(shape, dtype=torch.float32) for shape in shapes]

    def add(self, numbers: Tensor, block: Block) -> None:
        """Add a block of the rows with these numbers, on all keys."""
        summed = block.probs.sum(1)
        for maps, run in zip(self.maps, self.keys, strict=True):
            maps[block.batch].index_add_(1, numbers, summed[..., run].float(), alpha=1 / self.heads)


def _flat(place: Sequence[int], grid: Sequence[int]) -> int:
    """A position's number in the flattened grid."""
    number = 0
    for index, size in zip(place, grid, strict=True):
        number = number * size + index
    return number


def _labels(places: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(",".join(map(str, place)) for place in places)


def _field(
    maps: Tensor, query: str, grid: tuple[int, ...], dims: tuple[str, ...], axis: Axis, asking: str, answering: str
) -> Field:
    name = _NAME.format(asking=asking, answering=answering)
    return Field(("batch", query, *dims), maps.unflatten(-1, grid), name, axes=(axis,))
