"""Regions from self-attention by iterative merging (DiffSeg: Tian et al. 2023, "Diffuse, Attend, and Segment").

Each row of the attention matrix is a distribution over the image. Each anchor of a grid averages all rows that are near
its own, then the anchors are merged greedily. Rows are streamed: only the anchors' are kept in memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..segmentation.kl_merge import merge_distributions, pairwise_kl
from .attention_rows import Rows


def anchors_of(grid: tuple[int, ...], side: int) -> Int[Tensor, " anchors"]:
    """Positions of ``side`` x ``side`` anchors on a grid; along a shorter side all its points.

    As in the released code, anchors are a whole number of points apart, the largest that fits, and what is left over lies
    half before the first and half behind the last: 1, 5, ..., 61 for 16 of 64.

    >>> anchors_of((1, 64), 16)[:3].tolist(), anchors_of((4, 4), 2).tolist()
    ([1, 5, 9], [0, 3, 12, 15])
    """
    rows, cols = (_spread(length, side) for length in grid)
    return (rows[:, None] * grid[1] + cols[None, :]).flatten()


def _spread(length: int, side: int) -> Tensor:
    count = min(length, side)
    apart = (length - 1) // max(count - 1, 1)
    return (length - 1 - apart * (count - 1)) // 2 + apart * torch.arange(count)


def average_near(anchors: Float[Tensor, "anchors keys"], rows: Rows, threshold: float) -> Float[Tensor, "anchors keys"]:
    """Each anchor replaced by the mean of all rows whose symmetric KL divergence from it is below ``threshold``, in nats."""
    total, near_count = torch.zeros_like(anchors), anchors.new_zeros(len(anchors))
    for block in rows.blocks():
        near = (pairwise_kl(anchors, block) < threshold).to(anchors)
        total += near @ block
        near_count += near.sum(1)
    return torch.where(near_count[:, None] > 0, total / near_count.clamp(min=1)[:, None], anchors)


def merge_regions(
    rows: Rows, grid: tuple[int, ...], threshold: float, iterations: int = 3, side: int = 16
) -> Float[Tensor, "regions rows cols"]:
    """Region maps, each a distribution over the grid; a pixel belongs to the region with the highest map.

    Args:
        rows: the self-attention of a grid's points.
        grid: rows and columns of the grid.
        threshold: symmetric KL divergence in nats, above 0; a larger one gives fewer regions.
        iterations: at least 1; the first averages the rows near each anchor, the others merge the anchors greedily.
        side: anchors along each side of the grid.
    """
    if not threshold > 0:
        raise ValueError(f"merge_regions: the threshold must be above 0, got {threshold}")
    if iterations < 1:
        raise ValueError(f"merge_regions: there must be at least 1 iteration, got {iterations}")
    found = average_near(rows.at(anchors_of(grid, side)), rows, threshold).unflatten(1, grid)
    for _ in range(iterations - 1):
        found = merge_distributions(found, threshold)
    return found
