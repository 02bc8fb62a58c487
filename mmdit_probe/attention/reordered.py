"""Calls whose tokens stand elsewhere than the layout says: seen as if every sample's tokens stood in the layout's order.

Some models pack each sample's words without their padding, so that image and text begin at another position
in every row of the batch, or call the attention once a sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from .joint import LEFT_OUT, JointAttention
from .kernels import Attended, AttentionCall, additive_mask
from .layout import TokenLayout


@dataclass(frozen=True, eq=False)
class ArrangedCall(AttentionCall):
    """A call with its tokens moved; the kernel runs on the original, once.

    Positions that the call leaves out are masked as keys; as queries their probabilities are 0.
    """

    original: AttentionCall = field(kw_only=True)
    source: Tensor = field(kw_only=True)

    @cached_property
    def attended(self) -> Attended:
        plain = JointAttention(self.original, TokenLayout((1, self.original.query.shape[2]), 0))
        lse = take(plain.lse[..., None], self.source)[..., 0]
        lse = lse.masked_fill(~self.present[:, None], LEFT_OUT)  # exp(score - LEFT_OUT) = 0
        return Attended(take(plain.output, self.source), lse, plain.method)

    @property
    def present(self) -> Tensor:
        """(batch, tokens): True where the call has the token."""
        return self.source >= 0

    def restored(self, output: Tensor) -> Tensor:
        """An output in the layout's order, in the call's own."""
        back = self.original.attended.output.clone()
        for row, (source, present) in enumerate(zip(self.source, self.present, strict=True)):
            back[row, :, source[present]] = output[row, :, present]
        return back


def arranged(call: AttentionCall, source: Tensor) -> AttentionCall:
    """The call in the layout's order; itself if it has another number of tokens than ``source`` speaks of.

    ``source`` (batch, tokens) is each token's position in the call, -1 where the call leaves it out.
    """
    source = source.to(call.query.device)
    counts = (source >= 0).sum(1)
    if not bool((counts == call.query.shape[2]).all()) or call.query.shape[2] != call.key.shape[2]:
        return call
    query, key, value = (take(x, source) for x in (call.query, call.key, call.value))
    arguments = replace(call.arguments, attn_mask=_mask(call, source))
    return ArrangedCall(query, key, value, arguments, original=call, source=source)


def take(values: Tensor, source: Tensor) -> Tensor:
    """(batch, heads, positions, width) at the positions ``source`` (batch, tokens); 0 where it is -1."""
    index = source.clamp(min=0)[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index).masked_fill((source < 0)[:, None, :, None], 0)


def _mask(call: AttentionCall, source: Tensor) -> Tensor | None:
    """The mask by key, with the left-out positions masked; only masks that are the same for every query can move."""
    mask, absent = additive_mask(call.arguments.attn_mask, torch.float32), (source < 0)[:, None, None]
    if mask is None:
        return torch.zeros_like(absent, dtype=torch.float32).masked_fill(absent, -torch.inf) if absent.any() else None
    by_key = mask.expand(len(source), 1, 1, call.key.shape[2])
    return take(by_key.transpose(2, 3), source).transpose(2, 3).masked_fill(absent, -torch.inf)
