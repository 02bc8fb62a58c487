"""Calls whose tokens are not in the layout's order, presented as if they were.

Some models pack each sample's words without their padding, so that image and text start at different positions in
every batch row; some ask for words with more queries than the image's, or call the attention once for each sample or with
the frames of a video in the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .kernels import Attended, AttentionCall, additive_mask
from .scores import LEFT_OUT, lse_method, row_chunk, row_lse


class View(Protocol):
    """How the attention calls of one forward pass become calls in the layout's order."""

    def batch(self, call: AttentionCall) -> int:
        """The number of samples that the call has."""

    def rows(self, some: slice) -> View:
        """The view of some samples."""

    def of(self, call: AttentionCall) -> AttentionCall | None:
        """The call in the layout's order; None if it is not one of those that this view describes."""


@dataclass(frozen=True, eq=False)
class PresentedCall(AttentionCall):
    """A call in the layout's order; the kernel runs once, on ``original``."""

    original: AttentionCall = field(kw_only=True)

    @abstractmethod
    def presented(
        self, output: Float[Tensor, "samples heads positions width"]
    ) -> Float[Tensor, "batch heads tokens width"]:
        """An output of the original call, brought into the layout's order."""

    @abstractmethod
    def restored(
        self, output: Float[Tensor, "batch heads tokens width"]
    ) -> Float[Tensor, "samples heads positions width"]:
        """An output in the layout's order, brought back into the original call's."""

    def changed(
        self,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> AttentionCall:
        """`ValueError`: what the kernel is given can be changed in some models only."""
        raise ValueError(
            "edit: this model calls the attention in a way in which its queries, keys, values and mask can't be changed; take "
            "an edit of the output, such as Knockout or BlurText"
        )


@dataclass(frozen=True, eq=False)
class ReorderedCall(PresentedCall):
    """A call with its tokens in the layout's order.

    ``order`` (batch, queries) and ``key_order`` (batch, keys) are each token's position in the original call, -1 if the call
    leaves it out. Tokens that are left out are masked as keys; as queries their probabilities are 0.
    """

    order: Int[Tensor, "batch queries"] = field(kw_only=True)
    key_order: Int[Tensor, "batch keys"] = field(kw_only=True)

    @cached_property
    def attended(self) -> Attended:
        lse = take(row_lse(self.original, row_chunk())[..., None], self.order)[..., 0]
        lse = lse.masked_fill(~self.present[:, None], LEFT_OUT)  # exp(score - LEFT_OUT) = 0
        return Attended(self.presented(self.original.attended.output), lse, lse_method(self.original))

    @property
    def present(self) -> Bool[Tensor, "batch queries"]:
        """True at the queries that the original call has."""
        return self.order >= 0

    def presented(
        self, output: Float[Tensor, "batch heads positions width"]
    ) -> Float[Tensor, "batch heads tokens width"]:
        return take(output, self.order)

    def changed(
        self,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> AttentionCall:
        """The call with other inputs in the layout's order, which also the original call is given, in its own."""
        asked, answering = self.original.query.shape[2], self.original.key.shape[2]
        new_query = None if query is None else _put_back(query, self.order, asked)
        new_key, new_value = (
            None if tensor is None else _put_back(tensor, self.key_order, answering) for tensor in (key, value)
        )
        original = self.original.changed(new_query, new_key, new_value, self._own_mask(mask))
        made = Arrangement(self.order, self.key_order, (asked, answering)).of(original)
        assert made is not None  # the size is the call's own
        return made

    def _own_mask(self, mask: Tensor | None) -> Tensor | None:
        """A mask over queries and keys in the layout's order, in the original call's."""
        if mask is None:
            return None
        full = mask.expand(len(self.order), mask.shape[1], self.order.shape[1], self.key_order.shape[1])
        by_query = _put_back(full, self.order, self.original.query.shape[2])
        return _put_back(by_query.transpose(2, 3), self.key_order, self.original.key.shape[2]).transpose(2, 3)

    def restored(
        self, output: Float[Tensor, "batch heads tokens width"]
    ) -> Float[Tensor, "batch heads positions width"]:
        back = self.original.attended.output.clone()
        for row, (order, present) in enumerate(zip(self.order, self.present, strict=True)):
            back[row, :, order[present]] = output[row, :, present]
        return back


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Where the layout's tokens are in an attention call.

    Attributes:
        queries: (batch, queries) position of each of the layout's queries in the call, -1 for those that it leaves out.
        keys: (batch, keys) the same of the keys; None if they are as the queries.
        size: numbers of queries and keys of the calls that are so arranged, of which the layout may leave some out; calls of
            another size are ignored. None: a call's tokens are all in ``queries``, and other calls are in order.
    """

    queries: Int[Tensor, "batch queries"]
    keys: Int[Tensor, "batch keys"] | None = None
    size: tuple[int, int] | None = None

    def batch(self, call: AttentionCall) -> int:
        return call.batch

    def rows(self, some: slice) -> Arrangement:
        return Arrangement(self.queries[some], None if self.keys is None else self.keys[some], self.size)

    def of(self, call: AttentionCall) -> AttentionCall | None:
        size = call.query.shape[2], call.key.shape[2]
        if self.size is not None and size != self.size:
            return None
        if self.size is None and (size[0] != size[1] or bool(((self.queries >= 0).sum(1) != size[0]).any())):
            return call
        queries = self.queries.to(call.query.device)
        keys = queries if self.keys is None else self.keys.to(call.query.device)
        arguments = replace(call.arguments, attn_mask=_mask(call, queries, keys), is_causal=False)
        tensors = take(call.query, queries), take(call.key, keys), take(call.value, keys)
        return ReorderedCall(*tensors, arguments, original=call, order=queries, key_order=keys)


@dataclass(frozen=True)
class SomeQueries:
    """The view of calls with more queries than the layout's, which stand together; calls without these keys are ignored.

    Attributes:
        start: position of the first; negative to count from the end.
        count: how many.
        keys: number of keys of the calls.
    """

    start: int
    count: int
    keys: int

    def batch(self, call: AttentionCall) -> int:
        return call.batch

    def rows(self, some: slice) -> SomeQueries:
        return self

    def of(self, call: AttentionCall) -> AttentionCall | None:
        queries, keys = call.query.shape[2], call.key.shape[2]
        if keys != self.keys or queries < self.count + max(self.start, 0):
            return None
        if queries == self.count:
            return call
        start = self.start if self.start >= 0 else queries + self.start
        every = (torch.arange(n, device=call.query.device).expand(call.batch, -1) for n in (self.count, keys))
        return Arrangement(next(every) + start, next(every), (queries, keys)).of(call)


def take(
    values: Float[Tensor, "batch heads positions width"], order: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch heads tokens width"]:
    """The values at the positions in ``order``; 0 where it is -1."""
    index = order.clamp(min=0)[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3])
    return values.gather(2, index).masked_fill((order < 0)[:, None, :, None], 0)


def _put_back(
    values: Shaped[Tensor, "batch heads tokens width"], order: Int[Tensor, "batch tokens"], positions: int
) -> Shaped[Tensor, "batch heads positions width"]:
    """The values at their positions in the call of which ``order`` says where each is; 0 elsewhere."""
    back = values.new_zeros(*values.shape[:2], positions, values.shape[3])
    for row, (places, present) in enumerate(zip(order, order >= 0, strict=True)):
        back[row, :, places[present]] = values[row, :, present]
    return back


def _mask(call: AttentionCall, queries: Tensor, keys: Tensor) -> Tensor | None:
    """The mask of the arranged queries and keys, with the left-out keys masked."""
    absent, mask = (keys < 0)[:, None, None], additive_mask(call.arguments.attn_mask, torch.float32)
    if call.arguments.is_causal:
        size = call.query.shape[2], call.key.shape[2]
        mask = additive_mask(torch.ones(size, dtype=torch.bool, device=keys.device).tril(), torch.float32)
    if mask is None:
        return torch.zeros_like(absent, dtype=torch.float32).masked_fill(absent, -torch.inf) if absent.any() else None
    mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
    mask = mask.expand(len(keys), -1, -1, call.key.shape[2])
    by_key = take(mask.transpose(2, 3), keys).transpose(2, 3).masked_fill(absent, -torch.inf)
    return by_key if by_key.shape[2] == 1 else take(by_key, queries)
