"""Readouts: each observes a `JointAttention` and reduces it to named fields.

A readout of your own overrides `measure`::

    class MeanLSE(Readout):
        def measure(self, attention):
            return {"mean_lse": Field(("batch", "head"), attention.lse.mean(-1))}

Readouts that need the text columns or rows of the attention matrix return a `Reduction` from `start`
instead: the blocks are then computed once for all readouts of a probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .attention import REGIONS, Block, Heads, JointAttention, add_to_maps, mean_mass
from .layout import Region, TokenLayout
from .tokens import Kind


@dataclass(frozen=True)
class Field:
    """A tensor with named axes; the first axis is ``batch``."""

    dims: tuple[str, ...]
    values: Tensor


Fields = dict[str, Field]


@runtime_checkable
class Reduction(Protocol):
    """A running reduction over the blocks of one attention call."""

    def result(self) -> Fields: ...


@runtime_checkable
class TextColumns(Reduction, Protocol):
    """A reduction that wants every block of the text columns (all queries, text keys)."""

    def text_columns(self, block: Block) -> None: ...


@runtime_checkable
class TextRows(Reduction, Protocol):
    """A reduction that wants every block of the text rows (text queries, image keys)."""

    def text_rows(self, block: Block) -> None: ...


@dataclass(frozen=True)
class _Whole:
    fields: Fields

    def result(self) -> Fields:
        return self.fields


class Readout:
    """Base class: override `measure`, or `start` to share the streamed blocks."""

    def measure(self, attention: JointAttention) -> Fields:
        """The fields of one call."""
        raise TypeError(f"{type(self).__name__}: a readout must override measure or start")

    def start(self, attention: JointAttention) -> Reduction:
        """A reduction for one call."""
        return _Whole(self.measure(attention))

    def kept(self, layout: TokenLayout, heads: int) -> int:
        """How many numbers (4 bytes each) it keeps of one call and batch row; 0 where it does not say."""
        return 0


def read(readouts: Sequence[Readout], attention: JointAttention) -> Fields:
    """All readouts of one call; text columns and text rows are computed at most once."""
    with torch.no_grad():
        reductions = [readout.start(attention) for readout in readouts]
        columns = [r for r in reductions if isinstance(r, TextColumns)]
        rows = [r for r in reductions if isinstance(r, TextRows)]
        for block in attention.text_columns() if columns else ():
            for column_reduction in columns:
                column_reduction.text_columns(block)
        for block in attention.text_rows() if rows else ():
            for row_reduction in rows:
                row_reduction.text_rows(block)
        return {name: field for r in reductions for name, field in r.result().items()}


class RegionMass(Readout):
    """``region_mass`` (batch, head, region): mean mass over each region's queries, in [0, 1] (Seg4Diff, Fig. 2)."""

    def start(self, attention: JointAttention) -> Reduction:
        return _MassReduction(attention)

    def kept(self, layout: TokenLayout, heads: int) -> int:
        return heads * len(REGIONS)


class _MassReduction:
    def __init__(self, attention: JointAttention) -> None:
        self.attention = attention
        self.mass = attention.query.new_zeros(attention.batch, attention.heads, 2, dtype=torch.float32)

    def text_columns(self, block: Block) -> None:
        self.mass[block.batch, block.heads] = mean_mass(block, self.attention.layout)

    def result(self) -> Fields:
        return {"region_mass": Field(("batch", "head", "region"), self.attention.four_regions(self.mass))}


class _Maps(Readout):
    def __init__(self, heads: Heads = "mean") -> None:
        if heads not in ("mean", "all"):
            raise ValueError(f"{type(self).__name__}: heads must be 'mean' or 'all', got {heads!r}")
        self.heads: Heads = heads

    def __repr__(self) -> str:
        return f"{type(self).__name__}(heads={self.heads!r})"

    def kept(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text * (1 if self.heads == "mean" else heads)


class I2TMaps(_Maps):
    """``i2t`` (batch, [head,] row, col, token): probability with which each image query attends to each text token.

    ``heads`` is "mean" or "all". Probabilities of the joint softmax over image and text (Seg4Diff, section 4.1).
    """

    def start(self, attention: JointAttention) -> Reduction:
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

    def start(self, attention: JointAttention) -> Reduction:
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


class ValueNorms(Readout):
    """``value_norm`` (batch, head, stream): mean L2 norm of the value vectors (Seg4Diff, Fig. 4).

    Streams are image, text (all text positions) and prompt (words only; NaN where it is not known which
    positions are words). The image is NaN in plain cross-attention, whose values are text alone.
    """

    def measure(self, attention: JointAttention) -> Fields:
        norms = attention.value.float().norm(dim=-1)
        layout, text = attention.layout, attention.text
        image, words = norms[..., layout.image_keys].mean(-1), norms[..., layout.text_keys]
        prompt = torch.full_like(image, torch.nan)
        if text is not None:
            chosen = torch.from_numpy(text.is_prompt).to(words.device)[:, None]
            prompt = (words * chosen).sum(-1) / chosen.sum(-1)  # an empty prompt has no words: 0 / 0 = NaN
        return {"value_norm": Field(("batch", "head", "stream"), torch.stack([image, words.mean(-1), prompt], -1))}

    def kept(self, layout: TokenLayout, heads: int) -> int:
        return heads * len(STREAMS)


STREAMS = ("image", "text", "prompt")
COORDINATES = {
    "region": [str(region) for region in REGIONS],
    "stream": list(STREAMS),
    "kind": [str(kind) for kind in Kind],
    "feature": ["query", "key", "value"],
}
"""Labels of the readouts' own axes."""
