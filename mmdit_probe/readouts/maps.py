"""Maps of I2T and T2I attention, and of the scores before the softmax."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..attention.joint import Block, Heads, JointAttention, add_to_maps
from ..attention.layout import Region, TokenLayout
from .base import Field, Fields, Readout, Reduction


class _Maps(Readout):
    def __init__(self, heads: Heads = "mean") -> None:
        if heads not in ("mean", "all"):
            raise ValueError(f"{type(self).__name__}: heads must be 'mean' or 'all', got {heads!r}")
        self.heads: Heads = heads

    def __repr__(self) -> str:
        return f"{type(self).__name__}(heads={self.heads!r})"

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text * (1 if self.heads == "mean" else heads)


class I2TMaps(_Maps):
    """``i2t`` (batch, [head,] row, col, token): probability with which each image query attends to each text token.

    ``heads`` is "mean" or "all". Probabilities of the joint softmax over image and text (Seg4Diff, section 4.1).
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        return _I2TReduction(attention, self.heads)


class _I2TReduction:
    def __init__(self, attention: JointAttention, heads: Heads) -> None:
        self.attention, self.heads = attention, heads
        self.maps = attention.empty_maps(attention.layout.image, attention.layout.text, heads)

    def text_columns(self, block: Block) -> None:
        add_to_maps(self.maps, block, self.attention.layout.image_queries, self.attention.heads, self.heads)

    def result(self) -> Fields:
        return {"i2t": _map_field(self.maps, self.attention, self.heads)}


class T2IMaps(_Maps):
    """``t2i`` (batch, [head,] row, col, token): probability with which each text token attends to each image position.

    NaN where text does not attend.
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        return _T2IReduction(attention, self.heads)


class _T2IReduction:
    def __init__(self, attention: JointAttention, heads: Heads) -> None:
        self.attention, self.heads = attention, heads
        self.maps = attention.empty_maps(attention.layout.text, attention.layout.image, heads)

    def text_rows(self, block: Block) -> None:
        add_to_maps(self.maps, block, slice(None), self.attention.heads, self.heads)

    def result(self) -> Fields:
        maps = self.maps if Region.T2I in self.attention.layout.regions else self.maps.fill_(torch.nan)
        return {"t2i": _map_field(maps.transpose(-1, -2), self.attention, self.heads)}


def _map_field(maps: Tensor, attention: JointAttention, heads: Heads) -> Field:
    """(..., image, text) -> (..., row, col, token)."""
    leading = ("batch",) if heads == "mean" else ("batch", "head")
    layout = attention.layout
    return Field((*leading, *layout.grid_dims, "token"), maps.unflatten(-2, layout.grid))


class I2TScores(Readout):
    """``i2t`` as `I2TMaps`, but scores before the softmax (Seg4Diff, Table 5)."""

    def __init__(self, heads: Heads = "mean") -> None:
        self.heads = heads

    def measure(self, attention: JointAttention) -> Fields:
        scores = attention.scores(attention.layout.image_queries, attention.layout.text_keys)
        return _field(attention, scores.mean(1) if self.heads == "mean" else scores, self.heads)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return I2TMaps(self.heads).stored_numbers(layout, heads)


class RefinedI2T(Readout):
    """``i2t`` refined once: each grid point takes the mean of all points' maps, weighted by its I2I attention.

    The weights are the I2I probabilities, mean over heads, scaled to sum to 1 for each query. Exact; computed
    a few rows at a time, so that the whole I2I block is never in memory.
    """

    def measure(self, attention: JointAttention) -> Fields:
        maps = attention.i2t("mean")
        rows = [_i2i(attention, chunk) @ maps for chunk in _chunks(attention.layout.image_queries, attention.row_chunk)]
        return _field(attention, torch.cat(rows, 1), "mean")

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return I2TMaps().stored_numbers(layout, heads)


def _chunks(rows: slice, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _i2i(attention: JointAttention, rows: slice) -> Tensor:
    """(batch, rows, image): I2I of some image queries, mean over heads, rows summing to 1."""
    weights = attention.probs(rows, attention.layout.image_keys).mean(1)
    return weights / weights.sum(-1, keepdim=True)


def _field(attention: JointAttention, maps: Tensor, heads: Heads) -> Fields:
    leading = ("batch",) if heads == "mean" else ("batch", "head")
    layout = attention.layout
    return {"i2t": Field((*leading, *layout.grid_dims, "token"), maps.unflatten(-2, layout.grid))}
