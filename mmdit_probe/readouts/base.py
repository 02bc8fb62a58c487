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

from ..attention.joint import Block, JointAttention
from ..attention.layout import TokenLayout


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

    def reduction(self, attention: JointAttention) -> Reduction:
        """A reduction for one call."""
        return _Whole(self.measure(attention))

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        """How many numbers (4 bytes each) it keeps of one call and batch row; 0 where it does not say."""
        return 0


def read(readouts: Sequence[Readout], attention: JointAttention) -> Fields:
    """All readouts of one call; text columns and text rows are computed at most once."""
    with torch.no_grad():
        reductions = [readout.reduction(attention) for readout in readouts]
        columns = [r for r in reductions if isinstance(r, TextColumns)]
        rows = [r for r in reductions if isinstance(r, TextRows)]
        for block in attention.text_columns() if columns else ():
            for column_reduction in columns:
                column_reduction.text_columns(block)
        for block in attention.text_rows() if rows else ():
            for row_reduction in rows:
                row_reduction.text_rows(block)
        return {name: field for r in reductions for name, field in r.result().items()}
