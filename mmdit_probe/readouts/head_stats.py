"""HeadStats: how sharply each head attends to the text, and to which kinds of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import TokenLayout
from ..attention.text_tokens import Kind
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields

KINDS = tuple(Kind)
KIND = Axis("kind", tuple(str(kind) for kind in KINDS), "kind of text token")


class HeadStats(Readout):
    """Statistics of each head's I2T attention, means over the image queries.

    - ``i2t_entropy`` (batch, head): entropy in nats of a query's attention to the text, renormalized over the text
      tokens; in [0, log(text)], 0 if one token takes all of it.
    - ``i2t_effective_tokens`` (batch, head): mean of exp(entropy), in [1, text]: how many tokens a query attends to.
    - ``i2t_kind_mass`` (batch, head, kind): probability mass on start, word, end, padding and other tokens, in [0, 1];
      the kinds add up to the I2T mass, and NaN means that the kinds are unknown. Attention sinks show at the start and
      the padding.

    >>> from mmdit_probe import HeadStats, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [HeadStats()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> record = probe.dataset("conditional")
    >>> record["i2t_entropy"].attrs["units"], record["i2t_kind_mass"]["kind"].values[:2].tolist()
    ('nat', ['start', 'word'])
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total = _Statistics(attention)
        return OverTextColumns(total.add, total.fields)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * (2 + len(KINDS))


class _Statistics:
    def __init__(self, attention: JointAttention) -> None:
        self.layout = attention.layout
        self.is_kind = is_kind(attention)
        size, kinds = (attention.batch, attention.heads), len(KINDS)
        self.entropy = attention.query.new_empty(*size, dtype=torch.float32)
        self.effective = torch.empty_like(self.entropy)
        self.mass = attention.query.new_full((*size, kinds), torch.nan, dtype=torch.float32)

    def add(self, block: Block) -> None:
        """Add a block of the text columns."""
        here = block.batch, block.heads
        rows = block.probs[:, :, self.layout.image_queries]
        entropy = row_entropy(rows)
        self.entropy[here], self.effective[here] = entropy.nanmean(-1), entropy.exp().nanmean(-1)
        if self.is_kind is not None:
            self.mass[here] = rows.mean(-2) @ self.is_kind[block.batch]

    def fields(self) -> Fields:
        head = ("batch", "head")
        entropy = "entropy of an image query's attention over the text tokens, mean over queries"
        effective = "number of text tokens that an image query attends to (exp of the entropy), mean over queries"
        mass = "probability mass that image queries give to text tokens of a kind"
        return {
            "i2t_entropy": Field(head, self.entropy, entropy, "nat"),
            "i2t_effective_tokens": Field(head, self.effective, effective),
            "i2t_kind_mass": Field((*head, "kind"), self.mass, mass, axes=(KIND,)),
        }


def row_entropy(rows: Tensor) -> Tensor:
    """Entropy in nats of each row (last axis) divided by its sum; NaN for a row of zeros."""
    mass = rows.sum(-1)
    return (torch.special.entr(rows).sum(-1) / mass + mass.log()).clamp(min=0)


def is_kind(attention: JointAttention) -> Float[Tensor, "batch text kind"] | None:
    """1 if a text position is of a kind, else 0; None if the kinds are unknown."""
    if attention.text is None:
        return None
    kinds = torch.stack([torch.from_numpy(attention.text.kinds == kind) for kind in KINDS], -1)
    return exact(kinds.to(attention.query))
