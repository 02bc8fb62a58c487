"""HeadStats: how sharply each head looks at the text, and at what kind of token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.joint import Block, JointAttention
from ..attention.layout import TokenLayout
from ..attention.text_tokens import Kind
from .base import Field, Fields, Readout, Reduction

KINDS = tuple(Kind)


class HeadStats(Readout):
    """Statistics of each head's I2T rows, means over the image queries, streamed.

    - ``i2t_entropy`` (batch, head): entropy in nats of a query's I2T row renormalized over the text tokens, in
      [0, log(text)]. 0: all of it on one token.
    - ``i2t_effective_tokens`` (batch, head): mean of exp(entropy), in [1, text]: how many tokens a query looks at.
    - ``i2t_kind_mass`` (batch, head, kind): probability mass on start, word, end and padding tokens and so on, in
      [0, 1]; the kinds add up to the I2T mass. NaN where the kinds are unknown. Start and padding are where
      attention sinks show.
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        return _StatsReduction(attention)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * (2 + len(KINDS))


class _StatsReduction:
    def __init__(self, attention: JointAttention) -> None:
        self.layout = attention.layout
        self.is_kind = _is_kind(attention)
        size, kinds = (attention.batch, attention.heads), len(KINDS)
        self.entropy = attention.query.new_empty(*size, dtype=torch.float32)
        self.effective = torch.empty_like(self.entropy)
        self.mass = attention.query.new_full((*size, kinds), torch.nan, dtype=torch.float32)

    def text_columns(self, block: Block) -> None:
        here = block.batch, block.heads
        rows = block.probs[:, :, self.layout.image_queries]
        entropy = row_entropy(rows)
        self.entropy[here], self.effective[here] = entropy.nanmean(-1), entropy.exp().nanmean(-1)
        if self.is_kind is not None:
            self.mass[here] = rows.mean(-2) @ self.is_kind[block.batch]

    def result(self) -> Fields:
        return {
            "i2t_entropy": Field(("batch", "head"), self.entropy),
            "i2t_effective_tokens": Field(("batch", "head"), self.effective),
            "i2t_kind_mass": Field(("batch", "head", "kind"), self.mass),
        }


def row_entropy(rows: Tensor) -> Tensor:
    """Entropy in nats of each row (last axis) after dividing it by its sum; NaN for a row of zeros."""
    mass = rows.sum(-1)
    return (torch.special.entr(rows).sum(-1) / mass + mass.log()).clamp(min=0)


def _is_kind(attention: JointAttention) -> Tensor | None:
    """(batch, text, kind): 1 where a text position is of a kind."""
    if attention.text is None:
        return None
    kinds = torch.stack([torch.from_numpy(attention.text.kinds == kind) for kind in KINDS], -1)
    return kinds.to(attention.query.device, torch.float32)
