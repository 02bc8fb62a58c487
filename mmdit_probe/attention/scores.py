"""Explicit scores of an attention call, and the log-sum-exp where the kernel returns none."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .kernels import AttentionCall, additive_mask, exact

ROW_CHUNK = 256
"""Queries at a time where scores on all keys are computed explicitly."""

LEFT_OUT = torch.finfo(torch.float32).max
"""Log-sum-exp of a query that the layout has but the call leaves out: its probabilities are 0."""


def row_chunk(halvings: int = 0) -> int:
    """Queries at a time after the chunk has been halved so often; at least 1."""
    return max(1, ROW_CHUNK >> halvings)


def scores(call: AttentionCall, rows: slice, cols: slice) -> Float[Tensor, "batch heads rows cols"]:
    """``q k^T * scale`` plus the mask, before the softmax, in fp32 (float64 if the call is); carries gradients."""
    query, key = exact(call.query[:, :, rows]), exact(call.full_key[:, :, cols])
    unmasked = query @ (key * call.scale).transpose(-1, -2)
    mask = mask_block(call, rows, cols)
    return unmasked if mask is None else unmasked + mask


def mask_block(
    call: AttentionCall, rows: slice | Int[Tensor, " rows"], cols: slice
) -> Float[Tensor, "batch heads rows cols"] | None:
    """What is added to the scores of some queries and keys (0 or -inf for a boolean mask); None without a mask."""
    precision = torch.float64 if call.query.dtype == torch.float64 else torch.float32
    mask = additive_mask(call.arguments.attn_mask, precision)
    queries, keys = call.query.shape[2], call.key.shape[2]
    if call.arguments.is_causal:
        causal = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device).tril()
        mask = additive_mask(causal, precision)
    return None if mask is None else mask.expand(call.batch, call.heads, queries, keys)[:, :, rows, cols]


def seen_keys(call: AttentionCall) -> Bool[Tensor, "batch keys"]:
    """True at the keys that the call's mask allows to some query of some head."""
    mask, keys = call.arguments.attn_mask, call.key.shape[2]
    if mask is None:
        return torch.ones(call.batch, keys, dtype=torch.bool, device=call.key.device)
    allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
    allowed = allowed.reshape(*(1,) * (4 - allowed.ndim), *allowed.shape).flatten(1, 2).any(1)
    return allowed.expand(call.batch, keys)


def chunked_lse(call: AttentionCall, chunk: int) -> Float[Tensor, "batch heads queries"]:
    """The log-sum-exp from explicit scores, ``chunk`` queries at a time; carries gradients in bounded memory."""
    queries, every_key = call.query.shape[2], slice(0, call.key.shape[2])

    def of_chunk(start: int) -> Tensor:
        return scores(call, slice(start, start + chunk), every_key).logsumexp(-1)

    starts = range(0, queries, chunk)
    if needs_grad(call):
        return torch.cat([checkpoint(of_chunk, start, use_reentrant=False) for start in starts], -1)
    return torch.cat([of_chunk(start) for start in starts], -1)


def needs_grad(call: AttentionCall) -> bool:
    """Whether gradients are wanted through the call's scores."""
    return torch.is_grad_enabled() and (call.query.requires_grad or call.key.requires_grad)


def row_lse(call: AttentionCall, chunk: int) -> Float[Tensor, "batch heads queries"]:
    """The log-sum-exp of each query's scores, fp32, without gradient: the kernel's, else from explicit scores."""
    lse = call.attended.lse
    if lse is None:
        with torch.no_grad():
            lse = chunked_lse(call, chunk)
    # a query that may attend to nothing has -inf; clamped, its probabilities are 0 instead of NaN
    return lse.detach().clamp(min=torch.finfo(torch.float32).min)


def lse_method(call: AttentionCall) -> str:
    """The kernel that ran; ``+chunked`` if the log-sum-exp had to be computed from explicit scores."""
    return call.attended.kernel + ("+chunked" if call.attended.lse is None else "")
