"""Blocks of the attention matrix, streamed through one buffer so that the matrix itself never exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .kernels import AttentionCall, exact
from .scores import mask_block

BLOCK_ELEMENTS = 1 << 20
"""Size of the buffer that blocks are computed in (4 MB of fp32); one head may need more."""


class Block(NamedTuple):
    """Probabilities of some batch rows and heads, (batch, heads, rows, cols) in fp32, or float64 if the call is.

    The buffer behind ``probs`` is reused: copy what has to outlive the loop over the blocks.
    """

    batch: slice
    heads: slice
    probs: Float[Tensor, "batch heads rows cols"]


def stream_blocks(
    call: AttentionCall,
    lse: Float[Tensor, "batch heads queries"],
    rows: slice | Int[Tensor, " rows"],
    cols: slice,
    halvings: int = 0,
) -> Iterator[Block]:
    """``exp(scores - lse)`` of some queries and keys for every batch row and head, without gradient.

    ``rows`` are a range of queries, or their positions. ``halvings`` says how often the buffer's size is halved.
    """
    size = (rows.stop - rows.start if isinstance(rows, slice) else len(rows)) * (cols.stop - cols.start)
    if size == 0:
        return
    query = call.query[:, :, rows].detach()
    key = (exact(call.full_key[:, :, cols].detach()) * call.scale).transpose(-1, -2).contiguous()
    lse, mask = lse[:, :, rows, None], mask_block(call, rows, cols)
    buffer = key.new_empty(0)
    for batch, heads in _tiles(call.batch, call.heads, size, BLOCK_ELEMENTS >> halvings):
        shape = (batch.stop - batch.start, heads.stop - heads.start, query.shape[2], key.shape[3])
        probs = buffer.resize_(shape)
        torch.matmul(exact(query[batch, heads]), key[batch, heads], out=probs)
        if mask is not None:
            probs += mask[batch, heads]
        probs.sub_(lse[batch, heads]).exp_()
        yield Block(batch, heads, probs)


def _tiles(batch: int, heads: int, size: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Ranges of batch rows and heads whose blocks, ``size`` elements a head, fit into ``most`` elements."""
    batch_rows = max(1, most // (size * heads)) if size * heads <= most else 1
    some_heads = max(1, min(heads, most // size))
    for row in range(0, batch, batch_rows):
        for head in range(0, heads, some_heads):
            yield slice(row, min(row + batch_rows, batch)), slice(head, min(head + some_heads, heads))
