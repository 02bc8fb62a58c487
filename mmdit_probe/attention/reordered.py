"""Calls whose tokens are not in the layout's order, presented as if they were.

Some models pack each sample's words without their padding, so that image and text start at different positions in
every batch row, or call the attention once for each sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .kernels import Attended, AttentionCall, additive_mask
from .scores import LEFT_OUT, lse_method, row_chunk, row_lse


@dataclass(frozen=True, eq=False)
class ReorderedCall(AttentionCall):
    """A call with its tokens in the layout's order; the kernel runs once, on ``original``.

    ``order`` (batch, tokens) is each token's position in the original call, -1 if the call leaves it out. Tokens that
    are left out are masked as keys; as queries their probabilities are 0.
    """

    original: AttentionCall = field(kw_only=True)
    order: Int[Tensor, "batch tokens"] = field(kw_only=True)

    @cached_property
    def attended(self) -> Attended:
        lse = take(row_lse(self.original, row_chunk())[..., None], self.order)[..., 0]
        lse = lse.masked_fill(~self.present[:, None], LEFT_OUT)  # exp(score - LEFT_OUT) = 0
        return Attended(take(self.original.attended.output, self.order), lse, lse_method(self.original))

    @property
    def present(self) -> Bool[Tensor, "batch tokens"]:
        """True at the tokens that the original call has."""
        return self.order >= 0

    def restored(
        self, output: Float[Tensor, "batch heads tokens width"]
    ) -> Float[Tensor, "batch heads positions width"]:
        """An output in the layout's order, brought back into the original call's."""
        back = self.original.attended.output.clone()
        for row, (order, present) in enumerate(zip(self.order, self.present, strict=True)):
            back[row, :, order[present]] = output[row, :, present]
        return back


def reordered(call: AttentionCall, order: Int[Tensor, "batch tokens"]) -> AttentionCall:
    """The call in the layout's order; the call itself if ``order`` describes a different number of tokens."""
    order = order.to(call.query.device)
    counts = (order >= 0).sum(1)
    if not bool((counts == call.query.shape[2]).all()) or call.query.shape[2] != call.key.shape[2]:
        return call
    query, key, value = (take(tensor, order) for tensor in (call.query, call.key, call.value))
    arguments = replace(call.arguments, attn_mask=_mask(call, order))
    return ReorderedCall(query, key, value, arguments, original=call, order=order)


def take(
    values: Float[Tensor, "batch heads positions width"], order: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch heads tokens width"]:
    """The values at the positions in ``order``; 0 where it is -1."""
    index = order.clamp(min=0)[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index).masked_fill((order < 0)[:, None, :, None], 0)


def _mask(call: AttentionCall, order: Tensor) -> Tensor | None:
    """The mask over keys with the left-out tokens masked; it must be the same for every query."""
    mask, absent = additive_mask(call.arguments.attn_mask, torch.float32), (order < 0)[:, None, None]
    if mask is None:
        return torch.zeros_like(absent, dtype=torch.float32).masked_fill(absent, -torch.inf) if absent.any() else None
    by_key = mask.expand(len(order), 1, 1, call.key.shape[2])
    return take(by_key.transpose(2, 3), order).transpose(2, 3).masked_fill(absent, -torch.inf)
