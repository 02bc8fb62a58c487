"""Image-to-image attention of one image, a few rows at a time: the N x N matrix is never in memory unless it is small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.joint import JointAttention

BLOCK = 64
"""Rows at a time: for 4096 keys and 24 heads 25 MB of fp32, and a few times that while they are computed."""
MAX_HELD = 1 << 26
"""Matrices of up to this many elements (256 MB of fp32) are kept in memory if they are needed again."""


def normalized(matrix: Float[Tensor, "queries keys"]) -> Float[Tensor, "queries keys"]:
    """Each row divided by its sum; a row of zeros stays one."""
    return matrix / matrix.sum(-1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)


class Rows:
    """A square matrix whose rows sum to 1, computed a few rows at a time: ``rows[4:8]`` is (4, keys).

    Args:
        read: computes the rows of a slice, (queries, keys).
        count: number of rows.

    >>> import torch
    >>> rows = Rows.of(torch.eye(3))
    >>> len(rows), rows[0:2].tolist(), [len(block) for block in rows.blocks(2)]
    (3, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [2, 1])
    """

    def __init__(self, read: Callable[[slice], Tensor], count: int) -> None:
        self._read, self._count = read, count

    @classmethod
    def of(cls, matrix: Float[Tensor, "queries keys"]) -> Rows:
        """The rows of a matrix that is in memory."""
        return cls(matrix.__getitem__, len(matrix))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, chosen: slice) -> Tensor:
        return self._read(chosen)

    def at(self, positions: Sequence[int] | Tensor) -> Tensor:
        """(positions, keys): the rows at some positions, computed one by one."""
        return torch.cat([self[int(position) : int(position) + 1] for position in positions])

    def blocks(self, size: int = BLOCK) -> Iterator[Tensor]:
        """All rows in order, ``size`` at a time."""
        for start in range(0, self._count, size):
            yield self[start : min(start + size, self._count)]

    def kept_if_small(self) -> Rows:
        """The same rows, computed only once if the matrix has at most `MAX_HELD` elements."""
        return Rows.of(torch.cat(list(self.blocks()))) if self._count**2 <= MAX_HELD else self


def image_rows(attention: JointAttention, heads: Sequence[int] | None = None) -> Rows:
    """I2I probabilities of a batch of one, mean over ``heads`` (all if None), each row divided by its sum.

    `ValueError` if image queries have no image keys, as in plain cross-attention, or a head does not exist.
    """
    layout = attention.layout
    if layout.image_keys.stop == layout.image_keys.start:
        raise ValueError("this layer has no attention from image to image; read a self- or joint-attention layer")
    if heads is not None and not set(heads) <= set(range(attention.heads)):
        raise ValueError(f"heads must be in 0 to {attention.heads - 1}, got {list(heads)}")

    first = layout.image_queries.start

    def read(chosen: slice) -> Tensor:
        queries = slice(first + chosen.start, first + chosen.stop)
        probs = attention.probs(queries, layout.image_keys)[0]
        return normalized((probs if heads is None else probs[list(heads)]).mean(0))

    return Rows(read, layout.image_queries.stop - first)


def mean_rows(sources: Sequence[Rows]) -> Rows:
    """The mean of several matrices of one size."""
    return Rows(lambda chosen: torch.stack([rows[chosen] for rows in sources]).mean(0), len(sources[0]))
