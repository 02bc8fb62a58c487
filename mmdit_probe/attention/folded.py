"""Calls that have the frames of a video in the batch, presented with all frames of a sample in one row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from einops import rearrange
from torch import Tensor

from .kernels import Attended, AttentionCall
from .reordered import PresentedCall
from .scores import lse_method, row_chunk, row_lse

_APART, _TOGETHER = "(batch frame) head token width", "batch head (frame token) width"


@dataclass(frozen=True, eq=False)
class UnfoldedCall(PresentedCall):
    """A call whose batch rows are frames, ``frames`` after one another for each sample; they share the sample's keys."""

    frames: int = field(kw_only=True)

    @cached_property
    def attended(self) -> Attended:
        lse = self.presented(row_lse(self.original, row_chunk())[..., None])[..., 0]
        return Attended(self.presented(self.original.attended.output), lse, lse_method(self.original))

    def presented(self, output: Tensor) -> Tensor:
        return rearrange(output, f"{_APART} -> {_TOGETHER}", frame=self.frames)

    def restored(self, output: Tensor) -> Tensor:
        return rearrange(output, f"{_TOGETHER} -> {_APART}", frame=self.frames)


@dataclass(frozen=True)
class FramesInBatch:
    """The view of calls with ``frames`` batch rows for each sample; calls of other sizes are ignored.

    Attributes:
        frames: how many.
        samples: the forward pass's batch size.
    """

    frames: int
    samples: int

    def batch(self, call: AttentionCall) -> int:
        return call.batch // self.frames

    def rows(self, some: slice) -> FramesInBatch:
        return replace(self, samples=len(range(self.samples)[some]))

    def of(self, call: AttentionCall) -> AttentionCall | None:
        if call.batch != self.frames * self.samples:
            return None
        mask = call.arguments.attn_mask
        if mask is not None and mask.ndim == 4 and len(mask) == call.batch:
            mask = mask[:: self.frames]
        arguments = replace(call.arguments, attn_mask=mask)
        query = rearrange(call.query, f"{_APART} -> {_TOGETHER}", frame=self.frames)
        key, value = call.key[:: self.frames], call.value[:: self.frames]
        return UnfoldedCall(query, key, value, arguments, original=call, frames=self.frames)
