"""Readouts: each observes a `JointAttention` and reduces it to named fields.

Readouts that need the text columns or rows of the attention matrix, or some image queries' rows of it, return a
`Reduction` instead of overriding `measure`: the blocks are then computed once for all readouts of a probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .fields import Fields


@runtime_checkable
class Reduction(Protocol):
    """A running reduction over the blocks of one attention call."""

    def result(self) -> Fields: ...


@dataclass(frozen=True)
class OverTextColumns:
    """A reduction that takes every block of the text columns (all queries, text keys)."""

    add: Callable[[Block], None]
    result: Callable[[], Fields]


@dataclass(frozen=True)
class OverTextRows:
    """A reduction that takes every block of the text rows (text queries, image keys)."""

    add: Callable[[Block], None]
    result: Callable[[], Fields]


@dataclass(frozen=True)
class OverImageRows:
    """A reduction over whole rows of the attention matrix: some image queries on all keys, a few queries at a time.

    ``queries`` are the wanted positions in the flattened grid, in ascending order. ``add`` gets numbers into
    ``queries``, (rows,) in ascending order, and a block with these rows and all keys.
    """

    queries: Tensor
    add: Callable[[Tensor, Block], None]
    result: Callable[[], Fields]


@dataclass(frozen=True)
class _Measured:
    fields: Fields

    def result(self) -> Fields:
        return self.fields


class Readout:
    """Base class of readouts: override `measure`, or `reduction` to share the streamed blocks.

    Fields have the axes ``batch`` and then any others; the probe adds ``call`` and ``layer``.

    Attributes:
        reads_block: whether the calls' `attention.surroundings.Surroundings` are wanted.
        concepts: words and phrases that ride along in the text stream; see `ConceptMaps`.

    >>> from mmdit_probe import Field, Probe, Readout, load_pipeline
    >>> class MeanLSE(Readout):
    ...     def measure(self, attention):
    ...         return {"mean_lse": Field(("batch", "head"), attention.lse.mean(-1), "mean log-sum-exp of the scores")}
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [MeanLSE()]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> probe.dataset("conditional")["mean_lse"].dims
    ('call', 'batch', 'layer', 'head')
    """

    reads_block: bool = False
    concepts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def measure(self, attention: JointAttention) -> Fields:
        """The fields of one call."""
        raise TypeError(f"{type(self).__name__}: a readout must override measure or reduction")

    def reduction(self, attention: JointAttention) -> Reduction:
        """A reduction for one call: `OverTextColumns`, `OverTextRows`, `OverImageRows`, or what `measure` returns."""
        return _Measured(self.measure(attention))

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        """How many numbers (4 bytes each) are stored for one call, layer and batch row; 0 if unknown."""
        return 0


def read(readouts: Sequence[Readout], attention: JointAttention) -> Fields:
    """All readouts of one call; text columns, text rows and image rows are computed at most once."""
    with torch.no_grad():
        reductions = [readout.reduction(attention) for readout in readouts]
        columns = [r for r in reductions if isinstance(r, OverTextColumns)]
        rows = [r for r in reductions if isinstance(r, OverTextRows)]
        for block in attention.text_columns() if columns else ():
            for over_columns in columns:
                over_columns.add(block)
        for block in attention.text_rows() if rows else ():
            for over_rows in rows:
                over_rows.add(block)
        _read_image_rows([r for r in reductions if isinstance(r, OverImageRows)], attention)
        return {name: field for r in reductions for name, field in r.result().items()}


def _read_image_rows(reductions: Sequence[OverImageRows], attention: JointAttention) -> None:
    """Compute the rows of every image query that a reduction wants, and give each reduction its own."""
    if not reductions:
        return
    device, first = attention.query.device, attention.layout.image_queries.start
    wanted = [reduction.queries.to(device) for reduction in reductions]
    numbers = [torch.full((attention.layout.image,), -1, device=device) for _ in wanted]
    for number, queries in zip(numbers, wanted, strict=True):
        number[queries] = torch.arange(len(queries), device=device)
    for rows, block in attention.key_rows(torch.cat(wanted).unique() + first):
        for reduction, number in zip(reductions, numbers, strict=True):
            own = number[rows - first]
            known = own >= 0
            if bool(known.all()):
                reduction.add(own, block)
            elif bool(known.any()):
                reduction.add(own[known], block._replace(probs=block.probs[:, :, known]))
