"""Image-to-image attention of one image, a few rows at a time: the N x N matrix is never held unless it is small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.joint import JointAttention

Rows = Callable[[slice], Tensor]
"""Rows of a row-stochastic matrix: from a slice of queries to (queries, keys), each row summing to 1."""
ROWS = 64
"""Rows at a time: of 4096 keys and 24 heads 25 MB of fp32, and some times that while they are made."""
MAX_HELD = 1 << 26
"""Matrices of up to so many elements (256 MB of fp32) are kept where they are needed again."""


def normalized(rows: Float[Tensor, "queries keys"]) -> Float[Tensor, "queries keys"]:
    """Each row divided by its sum; a row of zeros stays one."""
    return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def blocks(rows: Rows, count: int, size: int = ROWS) -> Iterator[Tensor]:
    """All ``count`` rows in order, ``size`` at a time."""
    for start in range(0, count, size):
        yield rows(slice(start, min(start + size, count)))


def held(matrix: Float[Tensor, "queries keys"]) -> Rows:
    """The rows of a matrix that is in memory."""
    return lambda chosen: matrix[chosen]


def kept_if_small(rows: Rows, count: int, keys: int) -> Rows:
    """The same rows, computed once if the matrix has at most `MAX_HELD` elements."""
    return held(torch.cat(list(blocks(rows, count)))) if count * keys <= MAX_HELD else rows


def image_rows(attention: JointAttention, heads: Sequence[int] | None = None) -> Rows:
    """I2I of a batch of one: probabilities, mean over ``heads`` (None: all), each row brought to sum 1.

    `ValueError` where image queries have no image keys, as in plain cross-attention, or a head does not exist.
    """
    layout = attention.layout
    if layout.image_keys.stop == layout.image_keys.start:
        raise ValueError("this layer has no attention from image to image; read a self- or joint-attention layer")
    if heads is not None and not set(heads) <= set(range(attention.heads)):
        raise ValueError(f"heads must be in 0 to {attention.heads - 1}, got {list(heads)}")

    def of(chosen: slice) -> Tensor:
        first = layout.image_queries.start
        queries = slice(first + chosen.start, first + chosen.stop)
        probs = attention.probs(queries, layout.image_keys)[0]
        return normalized((probs if heads is None else probs[list(heads)]).mean(0))

    return of


def mean_rows(sources: Sequence[Rows]) -> Rows:
    """The mean of several matrices of one size."""
    return lambda chosen: torch.stack([rows(chosen) for rows in sources]).mean(0)
