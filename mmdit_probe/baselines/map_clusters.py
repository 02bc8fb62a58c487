"""Pixels clustered by what the prompt's tokens show there (iSeg: Sun et al. 2024, "iSeg: An Iterative Refinement-based Framework
for Training-free Segmentation").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

FLOOR = 1e-5
"""Added to the values before their logarithm."""
ABSENT = 1e-6
"""What zeros become before the clusters are found."""


def mixed_tokens(
    levels: Sequence[Float[Tensor, "tokens _ _"]], weights: Sequence[float], grid: Sequence[int]
) -> Float[Tensor, "pixels tokens"]:
    """The weighted sum over resolutions of each token's map, on ``grid``.

    Each map is first divided by its sum on its own grid, then upsampled bilinearly: one of a quarter of the sides weighs
    16 times as much as its weight says.
    """
    total: Tensor | float = 0.0
    for maps, weight in zip(levels, weights, strict=True):
        shares = maps / maps.sum((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
        total = total + weight * functional.interpolate(shares[None], size=list(grid), mode="bilinear")[0]
    if not isinstance(total, Tensor):
        raise ValueError("mixed_tokens: there must be at least one map")
    return total.flatten(1).T


def cluster_seeds(grid: Sequence[int], clusters: int) -> Int[Tensor, " seeds"]:
    """Positions of about ``clusters`` pixels: along each side as many points as fit when it is divided by their square root.

    >>> cluster_seeds((1, 64), 32).tolist()
    [0, 11, 22, 33, 44, 55]
    """
    if clusters < 1:
        raise ValueError(f"cluster_seeds: there must be at least 1 cluster, got {clusters}")
    rows, cols = (torch.arange(0, length, max(1, int(length // clusters**0.5))) for length in grid)
    return (rows[:, None] * grid[1] + cols[None]).flatten()


def map_clusters(
    maps: Float[Tensor, "pixels tokens"], seeds: Int[Tensor, " seeds"], iterations: int
) -> Int[Tensor, " pixels"]:
    """Cluster number of each pixel, from 0 without gaps.

    k-means on the pixels' values of all tokens, which starts at the pixels ``seeds``: each pixel joins the center with the
    smallest symmetric KL divergence, and each center becomes the mean of its pixels; centers without any are dropped. As in
    the released code, divergences are computed in half precision, whose rounding decides between near centers.
    """
    if iterations < 1:
        raise ValueError(f"map_clusters: there must be at least 1 iteration, got {iterations}")
    values = torch.where(maps == 0, ABSENT, maps.float())
    centers, joined = values[seeds.to(values.device)], torch.zeros(len(values), dtype=torch.long)
    for _ in range(iterations):
        joined = _half_divergence(centers, values).min(0).indices
        centers = torch.stack([values[joined == number].mean(0) for number in joined.unique()])
    return joined.unique(return_inverse=True)[1]


def _half_divergence(one: Float[Tensor, "a tokens"], other: Float[Tensor, "b tokens"]) -> Float[Tensor, "a b"]:
    """The symmetric KL divergence of values that need not sum to 1, each step rounded to half precision."""
    one, other = (one.half() + FLOOR)[:, None], (other.half() + FLOOR)[None]
    ratio = one.log() - other.log()
    return (one * ratio).sum(-1) * 0.5 - (other * ratio).sum(-1) * 0.5


def cluster_means(
    maps: Float[Tensor, "pixels tokens"], joined: Int[Tensor, " pixels"]
) -> Float[Tensor, "pixels tokens"]:
    """Each pixel's values replaced by the mean of its cluster's."""
    members = functional.one_hot(joined).to(maps)
    return (members.T @ maps / members.sum(0)[:, None])[joined]
