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

    def changed(
        self,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> AttentionCall:
        """The call with other inputs in the layout's order, which also the original call is given, in its own."""
        given = {"query": query, "key": key, "value": value}
        new = {
            name: self._back(tensor, getattr(self.original, name))
            for name, tensor in given.items()
            if tensor is not None
        }
        own_mask = None if mask is None else self._mask_back(mask)
        return reordered(self.original.changed(**new, mask=own_mask), self.order)

    def _back(self, tensor: Tensor, like: Tensor) -> Tensor:
        """A tensor in the layout's order, in the original call's; with as many heads as it has."""
        back = tensor.new_zeros(tensor.shape[0], tensor.shape[1], like.shape[2], tensor.shape[3])
        for row, (order, present) in enumerate(zip(self.order, self.present, strict=True)):
            back[row, :, order[present]] = tensor[row, :, present]
        return back

    def _mask_back(self, mask: Tensor) -> Tensor:
        """A mask over queries and keys in the layout's order, in the original call's."""
        tokens, positions = self.order.shape[1], self.original.query.shape[2]
        full = mask.expand(len(self.order), mask.shape[1], tokens, tokens)
        back = full.new_zeros(len(self.order), mask.shape[1], positions, positions)
        for row, (order, present) in enumerate(zip(self.order, self.present, strict=True)):
            inside = full[row][:, present][:, :, present]
            back[row, :, order[present][:, None], order[present]] = inside
        return back

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
    """The mask with the left-out tokens masked as keys."""
    mask, absent = additive_mask(call.arguments.attn_mask, torch.float32), (order < 0)[:, None, None]
    if mask is None:
        return torch.zeros_like(absent, dtype=torch.float32).masked_fill(absent, -torch.inf) if absent.any() else None
    mask = mask[(None,) * (4 - mask.dim())].expand(len(order), -1, -1, call.key.shape[2])
    index = order.clamp(min=0)
    mask = mask.gather(3, index[:, None, None].expand(*mask.shape[:3], -1))
    if mask.shape[2] > 1:
        mask = mask.gather(2, index[:, None, :, None].expand(*mask.shape[:2], -1, mask.shape[3]))
    return mask.masked_fill(absent, -torch.inf)
