"""Regions from self-attention by iterative merging (DiffSeg: Tian et al. 2023, "Diffuse, Attend, and Segment").

Each row of the attention matrix is a distribution over the image. A grid of anchors each averages all rows that are
near its own, then the anchors are merged greedily. Rows are streamed: only the anchors' are held.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..segmentation.kl_merge import merge_distributions
from .attention_rows import Rows, blocks


def anchors_of(grid: tuple[int, ...], side: int) -> Int[Tensor, " anchors"]:
    """Positions of ``side`` x ``side`` anchors, spread evenly over the grid; all its points if it has fewer."""
    rows, cols = (_spread(length, side) for length in grid)
    return (rows[:, None] * grid[1] + cols[None, :]).flatten()


def _spread(length: int, side: int) -> Tensor:
    count = min(length, side)
    return ((torch.arange(count) + 0.5) * length / count).long()


def pairwise_kl(one: Float[Tensor, "a keys"], other: Float[Tensor, "b keys"]) -> Float[Tensor, "a b"]:
    """(KL(p, q) + KL(q, p)) / 2 in nats for each pair of rows, 0 or more."""
    tiny = torch.finfo(one.dtype).tiny
    log_one, log_other = one.clamp(min=tiny).log(), other.clamp(min=tiny).log()
    own = (one * log_one).sum(-1)[:, None] + (other * log_other).sum(-1)[None]
    return ((own - one @ log_other.T - log_one @ other.T) / 2).clamp(min=0)


def average_near(
    anchors: Float[Tensor, "anchors keys"], rows: Rows, count: int, threshold: float
) -> Float[Tensor, "anchors keys"]:
    """Each anchor replaced by the mean of all rows whose divergence from it is below ``threshold``."""
    total, near_count = torch.zeros_like(anchors), anchors.new_zeros(len(anchors))
    for block in blocks(rows, count):
        near = (pairwise_kl(anchors, block) < threshold).to(anchors)
        total += near @ block
        near_count += near.sum(1)
    return torch.where(near_count[:, None] > 0, total / near_count.clamp(min=1)[:, None], anchors)


def merge_regions(
    rows: Rows, grid: tuple[int, ...], threshold: float, iterations: int = 3, side: int = 16
) -> Float[Tensor, "regions rows cols"]:
    """Region maps, each a distribution over the grid; a pixel belongs to the region with the highest map.

    Args:
        rows: the attention of a ``grid``'s points on one another, each row summing to 1.
        threshold: symmetric KL divergence in nats, above 0; a larger one gives fewer regions.
        iterations: the first averages the rows near each anchor, each further one merges the anchors greedily.
        side: anchors along each side of the grid.
    """
    if not threshold > 0:
        raise ValueError(f"merge_regions: the threshold must be above 0, got {threshold}")
    if iterations < 1:
        raise ValueError(f"merge_regions: there must be at least 1 iteration, got {iterations}")
    positions = anchors_of(grid, side)
    anchors = torch.cat([rows(slice(int(position), int(position) + 1)) for position in positions])
    found = average_near(anchors, rows, grid[0] * grid[1], threshold).unflatten(1, grid)
    for _ in range(iterations - 1):
        found = merge_distributions(found, threshold)
    return found
