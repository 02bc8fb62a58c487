"""I2IMaps: what chosen image positions attend to in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from ..attention.reductions import Heads
from .base import OverImageRows, Readout, Reduction
from .fields import Axis, Field, Fields, check_heads, leading_dims

Queries = Sequence[Sequence[int]] | Literal["center"] | np.ndarray
_QUERY = "image position that attends, as row,col (frame,row,col in a video); center; or mask, the mean over all of it"


class I2IMaps(Readout):
    """``i2i`` (batch, [head,] query, row, col): probability with which chosen image queries attend to each position.

    In [0, 1], of the joint softmax over image and text: a map sums to the query's I2I mass. The rows of the matrix are
    computed for these queries alone and shared with other readouts' in one pass; the I2I block is never in memory.

    Args:
        queries: positions as (row, col), or (frame, row, col) in a video; "center", the token in the middle; or a
            boolean mask on the grid, whose one map is the mean over its queries. A mask (rows, cols) of a video counts
            in every frame.
        heads: "mean" (average over heads) or "all" (a map for each).

    Raises:
        ValueError: a position is not on the grid, a mask is empty or has another shape, or image does not attend to
            image in this model.

    >>> from mmdit_probe import I2IMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [I2IMaps([(0, 0), (3, 5)])], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> maps = probe.dataset("conditional")["i2i"].isel(call=0, batch=0, layer=0)
    >>> dict(maps.sizes), maps["query"].values.tolist()
    ({'query': 2, 'row': 8, 'col': 8}, ['0,0', '3,5'])
    """

    def __init__(self, queries: Queries = "center", heads: Heads = "mean") -> None:
        check_heads("I2IMaps", heads)
        if isinstance(queries, str) and queries != "center":
            raise ValueError(f"I2IMaps: queries must be 'center', positions or a mask, got {queries!r}")
        if not isinstance(queries, str) and len(queries) == 0:
            raise ValueError("I2IMaps: queries must hold at least one (row, col)")
        self.queries, self.heads = queries, heads

    def reduction(self, attention: JointAttention) -> Reduction:
        layout = attention.layout
        if Region.I2I not in layout.regions:
            raise ValueError("I2IMaps: image does not attend to image in this model's layers; read I2TMaps")
        places, labels = self._places(layout)
        queries, position = torch.unique(torch.tensor(places, device=attention.query.device), return_inverse=True)
        total = _RowMaps(attention, queries, self.heads, averaged=isinstance(self.queries, np.ndarray))

        def result() -> Fields:
            maps = total.maps if total.averaged else total.maps[..., position, :]  # one asked for twice is read once
            over = "" if self.heads == "all" else ", mean over heads"
            name = "probability with which the image query attends to the image position" + over
            dims = (*leading_dims(self.heads), "query", *layout.grid_dims)
            return {"i2i": Field(dims, maps.unflatten(-1, layout.grid), name, axes=(Axis("query", labels, _QUERY),))}

        return OverImageRows(queries, total.add, result)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        count = 1 if isinstance(self.queries, str | np.ndarray) else len(self.queries)
        return count * layout.image * (1 if self.heads == "mean" else heads)

    def _places(self, layout: TokenLayout) -> tuple[list[int], tuple[str, ...]]:
        """Positions in the flattened grid, and the labels of the maps."""
        if isinstance(self.queries, np.ndarray):
            return _inside(self.queries, layout.grid), ("mask",)
        if isinstance(self.queries, str):
            return [int(np.ravel_multi_index([size // 2 for size in layout.grid], layout.grid))], ("center",)
        places = [tuple(int(number) for number in place) for place in self.queries]
        for place in places:
            if len(place) != len(layout.grid) or any(
                not 0 <= n < size for n, size in zip(place, layout.grid, strict=True)
            ):
                raise ValueError(
                    f"I2IMaps: query {place} is not a ({', '.join(layout.grid_dims)}) on the grid {layout.grid}"
                )
        labels = tuple(",".join(map(str, place)) for place in places)
        return [int(np.ravel_multi_index(place, layout.grid)) for place in places], labels


class _RowMaps:
    """``maps`` (batch, [heads,] query, image) of image queries' rows; one map, the mean over queries, if ``averaged``."""

    def __init__(self, attention: JointAttention, queries: Tensor, heads: Heads, averaged: bool) -> None:
        self.keys, self.heads, self.all_heads, self.averaged = (
            attention.layout.image_keys,
            heads,
            attention.heads,
            averaged,
        )
        count = len(queries)
        self.weight = 1 / count if averaged else 1.0
        self.target = torch.zeros(count, dtype=torch.long) if averaged else torch.arange(count)
        self.target = self.target.to(queries.device)
        leading = (attention.batch,) if heads == "mean" else (attention.batch, attention.heads)
        shape = (*leading, 1 if averaged else count, attention.layout.image)
        self.maps = attention.query.new_zeros(shape, dtype=torch.float32)

    def add(self, numbers: Tensor, block: Block) -> None:
        """Add a block of the rows with these numbers."""
        values = block.probs[..., self.keys].float()
        if self.heads == "all":
            self.maps[block.batch, block.heads].index_add_(2, self.target[numbers], values, alpha=self.weight)
        else:
            alpha = self.weight / self.all_heads
            self.maps[block.batch].index_add_(1, self.target[numbers], values.sum(1), alpha=alpha)


def _inside(mask: np.ndarray, grid: tuple[int, ...]) -> list[int]:
    """The positions where a boolean mask is True; a mask (rows, cols) counts in every frame."""
    chosen = np.asarray(mask, dtype=bool)
    if chosen.shape not in (grid, grid[-2:]):
        raise ValueError(f"I2IMaps: the mask is {chosen.shape}, the token grid {grid}; give one value for each token")
    places = np.flatnonzero(np.broadcast_to(chosen, grid))
    if not len(places):
        raise ValueError("I2IMaps: the mask is empty; give one with at least one True")
    return [int(place) for place in places]
