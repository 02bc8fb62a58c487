"""The fused attention kernels, called so that they also return the row-wise log-sum-exp.

`torch.nn.functional.scaled_dot_product_attention` picks a kernel and discards its log-sum-exp. `attend` asks PyTorch
which kernel it would pick and calls that kernel's own operator: the output is the same bit for bit, and the
log-sum-exp comes with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_aten = torch.ops.aten
_FLASH, _EFFICIENT, _CUDNN = 1, 2, 3  # torch.nn.attention.SDPBackend
_ALIGNMENT = 16
FUSED = ("cpu", "cuda")
"""Device types whose fused kernels are known here; on others, such as MPS, the log-sum-exp is computed in chunks."""


class Attended(NamedTuple):
    """What one attention call computed.

    Attributes:
        output: (batch, heads, queries, width).
        lse: (batch, heads, queries) in fp32, the natural logarithm of the sum of each query's exponentiated scores;
            None if the kernel returns none.
        kernel: the kernel's name.
    """

    output: Tensor
    lse: Tensor | None
    kernel: str


@dataclass(frozen=True)
class AttentionArguments:
    """The arguments of `scaled_dot_product_attention` after query, key and value."""

    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


def attend(query: Tensor, key: Tensor, value: Tensor, arguments: AttentionArguments) -> Attended:
    """The plain call's output and, if its kernel returns one, the log-sum-exp.

    ``lse`` is None with PyTorch's math backend, with dropout, with grouped heads and on devices other than CPU and
    CUDA; the caller then computes it in chunks.
    """
    if _fusible(query, key, arguments):
        choice = torch._fused_sdp_choice(
            query, key, value, arguments.attn_mask, arguments.dropout_p, arguments.is_causal, scale=arguments.scale
        )
        if choice == _FLASH and query.device.type == "cpu":
            return _cpu_flash(query, key, value, arguments)
        if choice == _FLASH and query.device.type == "cuda":
            return cuda_flash(query, key, value, arguments)
        if choice == _EFFICIENT:
            return cuda_efficient(query, key, value, arguments)
        if choice == _CUDNN:
            return cuda_cudnn(query, key, value, arguments)
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=arguments.attn_mask,
        dropout_p=arguments.dropout_p,
        is_causal=arguments.is_causal,
        scale=arguments.scale,
        enable_gqa=arguments.enable_gqa,
    )
    return Attended(output, None, "plain")


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of `scaled_dot_product_attention`; the kernel runs at most once, however often the call is read.

    ``query`` is (batch, heads, queries, width), ``key`` and ``value`` (batch, kv heads, keys, width).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    arguments: AttentionArguments = field(default_factory=AttentionArguments)

    @cached_property
    def attended(self) -> Attended:
        """What the kernel computes, when first asked for."""
        return attend(self.query, self.key, self.value, self.arguments)

    @property
    def batch(self) -> int:
        return self.query.shape[0]

    @property
    def heads(self) -> int:
        return self.query.shape[1]

    @property
    def scale(self) -> float:
        """Factor of the scores before the softmax: ``1 / sqrt(width)`` unless the model sets another."""
        return self.arguments.scale if self.arguments.scale is not None else self.query.shape[-1] ** -0.5

    @cached_property
    def full_key(self) -> Tensor:
        """(batch, heads, keys, width): the keys with as many heads as the queries."""
        with torch.enable_grad():  # kept, and so not to be made without gradients where the key has some
            return self.key.repeat_interleave(self.heads // self.key.shape[1], dim=1)

    def changed(
        self,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> AttentionCall:
        """The call with other inputs; what is None stays. A mask takes the place of the call's own, a causal one included."""
        arguments = self.arguments if mask is None else replace(self.arguments, attn_mask=mask, is_causal=False)
        pairs = ((query, self.query), (key, self.key), (value, self.value))
        new_query, new_key, new_value = (old if given is None else given for given, old in pairs)
        return AttentionCall(new_query, new_key, new_value, arguments)

    def part(self, rows: slice, lse: Tensor) -> AttentionCall:
        """Some batch rows of the call, for which the kernel need not run again; ``lse`` is that of all rows."""
        mask = self.arguments.attn_mask
        own_mask = mask[rows] if mask is not None and mask.ndim == 4 and len(mask) > 1 else mask
        query, key, value = (tensor[rows] for tensor in (self.query, self.key, self.value))
        attended = Attended(self.attended.output[rows], lse[rows], self.attended.kernel)
        return AttendedCall(query, key, value, replace(self.arguments, attn_mask=own_mask), known=attended)


@dataclass(frozen=True, eq=False)
class AttendedCall(AttentionCall):
    """A call whose result is known already."""

    known: Attended = field(kw_only=True)

    @cached_property
    def attended(self) -> Attended:
        return self.known


def _fusible(query: Tensor, key: Tensor, arguments: AttentionArguments) -> bool:
    mask = arguments.attn_mask
    return (
        query.device.type in FUSED
        and arguments.dropout_p == 0.0
        and query.shape[:2] == key.shape[:2]
        and query.dim() == 4
        and (mask is None or not mask.requires_grad)
    )


def exact(tensor: Tensor) -> Tensor:
    """The tensor in the precision in which probabilities are computed: fp32, or float64 if that is its own."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A boolean mask (True: attend) as 0 and -inf, a float mask in ``dtype``; None stays None."""
    if mask is None or mask.dtype != torch.bool:
        return mask if mask is None else mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -math.inf)


def _cpu_flash(query: Tensor, key: Tensor, value: Tensor, arguments: AttentionArguments) -> Attended:
    mask = additive_mask(arguments.attn_mask, query.dtype)
    output, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, arguments.is_causal, attn_mask=mask, scale=arguments.scale
    )
    return Attended(output, lse, "flash-cpu")


def cuda_flash(query: Tensor, key: Tensor, value: Tensor, arguments: AttentionArguments) -> Attended:
    """CUDA's flash attention; widths are padded to a multiple of 8, as PyTorch does."""
    width = query.shape[-1]
    scale = arguments.scale if arguments.scale is not None else width**-0.5
    padded = [functional.pad(x, (0, -width % 8)) if width % 8 else x for x in (query, key, value)]
    output, lse, *_ = _aten._scaled_dot_product_flash_attention(*padded, 0.0, arguments.is_causal, False, scale=scale)
    return Attended(output[..., :width], lse.float(), "flash-cuda")


def cuda_efficient(query: Tensor, key: Tensor, value: Tensor, arguments: AttentionArguments) -> Attended:
    """CUDA's memory-efficient attention; its log-sum-exp is padded to a multiple of 32 queries and cut here."""
    mask = additive_mask(arguments.attn_mask, query.dtype)
    bias = _expanded(mask if mask is None else aligned(mask, key.shape[-2]), query, key)
    output, lse, *_ = _aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, 0.0, arguments.is_causal, scale=arguments.scale
    )
    return Attended(output, lse[..., : query.shape[-2]].float(), "efficient-cuda")


def cuda_cudnn(query: Tensor, key: Tensor, value: Tensor, arguments: AttentionArguments) -> Attended:
    """cuDNN's attention; its log-sum-exp has a trailing axis of size 1."""
    bias = _expanded(additive_mask(arguments.attn_mask, query.dtype), query, key)
    output, lse, *_ = _aten._scaled_dot_product_cudnn_attention(
        query, key, value, bias, True, 0.0, arguments.is_causal, False, scale=arguments.scale
    )
    return Attended(output, lse.reshape(query.shape[:3]).float(), "cudnn")


def aligned(mask: Tensor, keys: int) -> Tensor:
    """The mask with rows that start at multiples of 16 elements, as the memory-efficient kernel requires.

    It is padded before it is expanded, as in PyTorch: one row for all heads and queries stays one row.
    """
    mask = mask.expand(*mask.shape[:-1], keys)
    if mask.stride(-1) == 1 and not any(stride % _ALIGNMENT for stride in mask.stride()[:-1]):
        return mask
    return functional.pad(mask, (0, _ALIGNMENT - keys % _ALIGNMENT))[..., :keys]


def _expanded(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    return None if mask is None else mask.expand(*query.shape[:3], key.shape[-2])
