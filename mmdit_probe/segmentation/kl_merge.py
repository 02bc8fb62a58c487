"""Regions without words: the greedy merge of the text tokens' maps by KL divergence (Seg4Diff, section 4.3).

The defaults are those of the released code; `region_maps` with variant "paper-text" follows the paper's text.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..configs.segmentation import Variant
from ..utils.choices import check_choice

Maps = TypeVar("Maps", np.ndarray, Tensor)
SMALLEST_RANGE = 1e-6
"""Added to the range of a grid point's values before they are divided by it."""


def symmetric_kl(one: Float[Tensor, "rows cols"], maps: Float[Tensor, "tokens rows cols"]) -> Float[Tensor, " tokens"]:
    """(KL(one, map) + KL(map, one)) / 2 of one map and each of ``maps``, in nats, at least 0.

    All maps are distributions over the grid.
    """
    tiny = torch.finfo(maps.dtype).tiny
    return ((one - maps) * (one.clamp(min=tiny).log() - maps.clamp(min=tiny).log())).sum((-2, -1)) / 2


def pairwise_kl(one: Float[Tensor, "a keys"], other: Float[Tensor, "b keys"]) -> Float[Tensor, "a b"]:
    """`symmetric_kl` of each row of ``one`` and each row of ``other``; every row is a distribution.

    Computed by matrix products: `symmetric_kl` of all pairs would hold (a, b, keys) elements at once. Its rounding is
    coarser, so that the divergence of a row from itself need not be exactly 0.
    """
    tiny = torch.finfo(one.dtype).tiny
    log_one, log_other = one.clamp(min=tiny).log(), other.clamp(min=tiny).log()
    own = (one * log_one).sum(-1)[:, None] + (other * log_other).sum(-1)[None]
    return ((own - one @ log_other.T - log_one @ other.T) / 2).clamp(min=0)


def merge_by_kl(maps: Maps, threshold: float, *, reuse: bool = True) -> Maps:
    """Merge token maps into proposals: greedily, by the KL divergence of their softmaxes over the grid.

    In token order, each map that is not matched yet becomes an anchor. The maps whose symmetric KL divergence from it is
    below ``threshold`` are averaged into one proposal and count as matched.

    Args:
        maps: (tokens, rows, cols) real numbers, NumPy or torch.
        threshold: in nats, above 0; a larger one gives fewer proposals. The released code's is 0.1.
        reuse: also average maps that an earlier anchor has matched, as the released code does.

    Returns:
        (proposals, rows, cols), each a distribution over the grid; of the same kind as ``maps``.

    >>> import torch
    >>> left, right = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    >>> proposals = merge_by_kl(torch.stack([left, right, left + 0.1]), threshold=0.1)
    >>> proposals.shape, proposals.sum((1, 2))
    (torch.Size([2, 1, 2]), tensor([1., 1.]))
    """
    if maps.ndim != 3 or not len(maps):
        raise ValueError(
            f"merge_by_kl: maps must be (tokens, rows, cols) with at least one token, got {tuple(maps.shape)}"
        )
    given = torch.as_tensor(maps)
    merged = merge_distributions(given.flatten(1).softmax(1).unflatten(1, given.shape[1:]), threshold, reuse=reuse)
    return merged.numpy() if isinstance(maps, np.ndarray) else merged


def merge_distributions(
    maps: Float[Tensor, "tokens rows cols"], threshold: float, *, reuse: bool = True
) -> Float[Tensor, "proposals rows cols"]:
    """`merge_by_kl` of maps that are already distributions over the grid."""
    if not threshold > 0:
        raise ValueError(f"merge_by_kl: the threshold must be above 0, got {threshold}")
    free = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    proposals = []
    for token in range(len(maps)):
        if not free[token]:
            continue
        near = symmetric_kl(maps[token], maps) < threshold
        proposals.append(maps[near if reuse else near & free].mean(0))
        free &= ~near
    return torch.stack(proposals)


def scale_pixels(maps: Float[Tensor, "tokens rows cols"]) -> Float[Tensor, "tokens rows cols"]:
    """Each grid point's values scaled to [0, 1) by their minimum and range over the tokens; 0 if all are equal.

    As in the released code, `SMALLEST_RANGE` is added to the range: values that hardly differ stay small.
    """
    low, high = maps.amin(0), maps.amax(0)
    return (maps - low) / (high - low + SMALLEST_RANGE)


def region_maps(
    maps: Float[Tensor, "tokens rows cols"], threshold: float = 0.1, variant: str = "released", min_max: bool = True
) -> Float[Tensor, "proposals rows cols"]:
    """Proposals from the I2T probabilities of an empty prompt's tokens; each is a distribution over the grid.

    Args:
        maps: the tokens' probabilities.
        threshold: symmetric KL divergence in nats, above 0.
        variant: "released" takes `merge_by_kl`; "paper-text" divides each token's map by its sum over the grid and merges
            each map into one proposal only.
        min_max: "released" only: apply `scale_pixels` first.
    """
    check_choice("variant", variant, Variant)
    if variant == "released":
        return merge_by_kl(scale_pixels(maps) if min_max else maps, threshold)
    mass = maps.sum((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    return merge_distributions(maps / mass, threshold, reuse=False)
