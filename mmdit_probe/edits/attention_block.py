"""The streamed blocks of one attention call that edits of its output work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import TokenLayout
from ..attention.text_tokens import TextTokens


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """Some batch rows and heads of one attention call, in fp32, or float64 if the call is.

    Attributes:
        probs: the text columns so far: probabilities of all queries on the text keys.
        values: the text values, with as many heads as the queries.
        output: the output so far.
        lse: the log-sum-exp of each query's scores so far.
        layout: which tokens are image and which are text.
        text: what the text positions of all batch rows hold; None if unknown.
        batch: which batch rows of the call these are.
        heads: which heads of the call these are.
        attention: the whole call.
    """

    probs: Float[Tensor, "batch heads queries text"]
    values: Float[Tensor, "batch heads text width"]
    output: Float[Tensor, "batch heads queries width"]
    lse: Float[Tensor, "batch heads queries"]
    layout: TokenLayout
    text: TextTokens | None
    batch: slice
    heads: slice
    attention: JointAttention

    @property
    def image_probs(self) -> Float[Tensor, "batch heads image text"]:
        """I2T: image queries on text keys."""
        return self.probs[:, :, self.layout.image_queries]

    @property
    def image_output(self) -> Float[Tensor, "batch heads image width"]:
        """The image queries' output so far."""
        return self.output[:, :, self.layout.image_queries]

    def with_image(self, output: Float[Tensor, "batch heads image width"]) -> Tensor:
        """The output so far with that of the image queries replaced."""
        edited = self.output.clone()
        edited[:, :, self.layout.image_queries] = output
        return edited

    def reweighted(self, gain: Float[Tensor, "batch heads image text"]) -> AttentionBlock:
        """The block with ``gain`` added to the image queries' scores on text keys; every row sums to 1 again.

        Exact from the text columns alone: with Z = 1 + sum p (e^gain - 1), p becomes p e^gain / Z, and the output
        (o + sum p (e^gain - 1) v) / Z.
        """
        rows, probs = self.layout.image_queries, self.image_probs
        top = gain.amax(-1, keepdim=True).clamp(min=0)  # keeps every exponential at most 1
        raised, rest = (gain - top).exp(), (-top).exp()
        more = probs * (raised - rest)
        total = rest + more.sum(-1, keepdim=True)
        lse, text = self.lse.clone(), self.probs.clone()
        lse[:, :, rows] += (top + total.log())[..., 0]
        text[:, :, rows] = probs * raised / total
        output = self.with_image((rest * self.image_output + more @ self.values) / total)
        return replace(self, probs=text, lse=lse, output=output)

    def where(self, chosen: Bool[Tensor, "batch heads 1 1"], changed: Tensor | AttentionBlock) -> AttentionBlock:
        """What an edit makes of the block, in the chosen batch rows and heads alone."""
        if isinstance(changed, Tensor):
            return replace(self, output=changed if chosen.all() else torch.where(chosen, changed, self.output))
        if chosen.all():
            return changed
        probs, output = (
            torch.where(chosen, new, old) for new, old in ((changed.probs, self.probs), (changed.output, self.output))
        )
        return replace(self, probs=probs, output=output, lse=torch.where(chosen[..., 0], changed.lse, self.lse))


def streamed(attention: JointAttention, output: Tensor) -> Iterator[AttentionBlock]:
    """A call's text columns, block after block, with its output so far; a block without columns if it has no text."""
    values, layout = text_values(attention), attention.layout
    for found in attention.text_columns() if layout.text else _without_text(attention):
        part = found.batch, found.heads
        own = exact(output[part]), attention.lse[part]
        yield AttentionBlock(found.probs, values[part], *own, layout, attention.text, *part, attention)


def _without_text(attention: JointAttention) -> Iterator[Block]:
    for row in range(attention.batch):
        probs = exact(attention.query.new_zeros(1, attention.heads, attention.layout.queries, 0))
        yield Block(slice(row, row + 1), slice(0, attention.heads), probs)


def text_values(attention: JointAttention) -> Float[Tensor, "batch heads text width"]:
    """The text values in fp32, or float64 if the call is, with as many heads as the queries."""
    return values_at(attention, attention.layout.text_keys)


def values_at(attention: JointAttention, keys: slice) -> Float[Tensor, "batch heads keys width"]:
    """The values at some keys, in fp32 or float64, with as many heads as the queries."""
    groups = attention.heads // attention.value.shape[1]
    return exact(attention.value[:, :, keys]).repeat_interleave(groups, 1)
