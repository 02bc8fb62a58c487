"""The streamed blocks of one attention call that edits of its output work on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.edges import EdgeLayout
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
        total: what each query's probabilities over all keys sum to: 1, until an edit takes some away or adds some.
        scale: what exp(score - lse) is to be multiplied by to get the probability on a key without edits of its own.
        own: what each query of the image gives to its own token in addition.
        removed: True at the keys that no image query sees any longer.
        layout: which tokens are image and which are text.
        text: what the text positions of all batch rows hold; None if unknown.
        batch: which batch rows of the call these are.
        heads: which heads of the call these are.
        attention: the whole call.
        others_by_scores: whether the probabilities on all other keys follow from their scores and these.
    """

    probs: Float[Tensor, "batch heads queries text"]
    values: Float[Tensor, "batch heads text width"]
    output: Float[Tensor, "batch heads queries width"]
    lse: Float[Tensor, "batch heads queries"]
    total: Float[Tensor, "batch heads queries"]
    scale: Float[Tensor, "batch heads queries"]
    own: Float[Tensor, "batch heads queries"]
    removed: Bool[Tensor, "batch heads keys"]
    layout: TokenLayout
    text: TextTokens | None
    batch: slice
    heads: slice
    attention: JointAttention
    others_by_scores: bool

    @property
    def image_probs(self) -> Float[Tensor, "batch heads image text"]:
        """I2T: image queries on text keys."""
        return self.probs[:, :, self.layout.image_queries]

    @property
    def image_output(self) -> Float[Tensor, "batch heads image width"]:
        """The image queries' output so far."""
        return self.output[:, :, self.layout.image_queries]

    @property
    def image_total(self) -> Float[Tensor, "batch heads image 1"]:
        """What the image queries' probabilities sum to; 1 for those that have lost all."""
        total = self.total[:, :, self.layout.image_queries, None]
        return total.masked_fill(total == 0, 1)

    def with_image(self, output: Float[Tensor, "batch heads image width"]) -> Tensor:
        """The output so far with that of the image queries replaced."""
        edited = self.output.clone()
        edited[:, :, self.layout.image_queries] = output
        return edited

    def with_image_probs(
        self,
        probs: Float[Tensor, "batch heads image text"],
        output: Float[Tensor, "batch heads image width"],
        total: Float[Tensor, "batch heads image"] | None = None,
        gain: Float[Tensor, "batch heads image"] | None = None,
    ) -> AttentionBlock:
        """The block with other I2T probabilities, and the output that they give.

        ``total`` is what the rows sum to now, 0 for those that have lost all; None: what the text columns gain is added.
        ``gain`` is added to the log-sum-exp: all other keys get so much less.
        """
        rows = self.layout.image_queries
        text, sums = self.probs.clone(), self.total.clone()
        text[:, :, rows] = probs
        sums[:, :, rows] = sums[:, :, rows] + (probs - self.image_probs).sum(-1) if total is None else total
        changed = replace(self, probs=text, total=sums, output=self.with_image(output))
        if gain is None:
            return changed
        lse, scale, own = self.lse.clone(), self.scale.clone(), self.own.clone()
        lse[:, :, rows] += gain
        own[:, :, rows] *= (-gain).exp()
        for each in (scale, own):
            each[:, :, rows] *= sums[:, :, rows] != 0
        return replace(changed, lse=lse, scale=scale, own=own)

    def where(self, chosen: Bool[Tensor, "batch heads 1 1"], changed: Tensor | AttentionBlock) -> AttentionBlock:
        """What an edit makes of the block, in the chosen batch rows and heads alone."""
        if isinstance(changed, Tensor):
            return replace(self, output=changed if chosen.all() else torch.where(chosen, changed, self.output))
        if chosen.all():
            return changed
        names = ("probs", "output", "lse", "total", "scale", "own", "removed")
        new: dict[str, Any] = {}
        for name in names:
            old, changed_to = getattr(self, name), getattr(changed, name)
            where = chosen if old.ndim == 4 else chosen[..., 0]
            new[name] = old if changed_to is old else torch.where(where, changed_to, old)
        return replace(self, **new)


class Rows:
    """What the edits of a call's output so far have made of its queries, where they work on different edges one by one."""

    def __init__(self, attention: JointAttention) -> None:
        self.plain = attention.lse
        self.lse, self.total = attention.lse.clone(), torch.ones_like(attention.lse)
        self.scale, self.own = torch.ones_like(attention.lse), torch.zeros_like(attention.lse)
        size = attention.batch, attention.heads, attention.layout.keys
        self.removed = torch.zeros(size, dtype=torch.bool, device=attention.lse.device)
        self._changed: list[tuple[slice, slice, str]] = []

    def keep(self, block: AttentionBlock) -> None:
        """What a block has become."""
        part = block.batch, block.heads
        for name in ("lse", "total", "scale", "own", "removed"):
            getattr(self, name)[part] = getattr(block, name)

    def change(self, rows: slice, keys: slice, name: str) -> None:
        """Note that an edit has changed these probabilities in another way than all of a query's."""
        self._changed.append((rows, keys, name))

    def others_by_scores(self, layout: TokenLayout) -> bool:
        """Whether no edit has changed other probabilities of the layout's I2T queries by themselves."""
        return not any(_overlap(rows, layout.image_queries) for rows, _, _ in self._changed)

    def check(self, layout: TokenLayout, name: str) -> None:
        """`ValueError` if the layout's I2T probabilities no longer follow from the call's scores."""
        rows, keys = layout.image_queries, layout.text_keys
        changed = [name for *part, name in self._changed if all(map(_overlap, part, (rows, keys)))]
        if changed:
            raise ValueError(
                f"edit: {name} needs attention that {changed[0]} has changed before it, on another edge; put edits of one edge "
                f"next to each other, or {name} first"
            )

    def probs(self, block: Block, layout: TokenLayout) -> Tensor:
        """A block's probabilities on the text keys as edits of other edges have left them."""
        part = block.batch, block.heads
        whole = layout.whole if isinstance(layout, EdgeLayout) else layout
        rows, plain, lse = whole.image_queries, self.plain[part], self.lse[part]
        left = torch.where(plain == lse, 1, (plain - lse).exp()) * self.scale[part]
        kept = block.probs if bool((left == 1).all()) else block.probs * left[..., None]
        gone, own = self.removed[part][:, :, None, layout.text_keys], self.own[part][:, :, rows]
        is_own = layout.text_keys == whole.image_keys and bool((own != 0).any())
        if bool(gone.any()) or is_own:
            kept = kept.clone()
            kept[:, :, rows] = kept[:, :, rows].masked_fill(gone, 0)
        if is_own:
            kept[:, :, rows].diagonal(dim1=2, dim2=3).add_(own)
        return kept


def _overlap(one: slice, other: slice) -> bool:
    return one.start < other.stop and other.start < one.stop


def streamed(attention: JointAttention, output: Tensor, rows: Rows) -> Iterator[AttentionBlock]:
    """A call's text columns, block after block, with its output so far; a block without columns if it has no text."""
    values, layout = text_values(attention), attention.layout
    by_scores = rows.others_by_scores(layout)
    for found in attention.text_columns() if layout.text else _without_text(attention):
        part = found.batch, found.heads
        state = rows.lse[part], rows.total[part], rows.scale[part], rows.own[part], rows.removed[part]
        probs = rows.probs(found, layout)
        given = values[part], exact(output[part])
        yield AttentionBlock(probs, *given, *state, layout, attention.text, *part, attention, by_scores)


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
