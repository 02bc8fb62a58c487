"""Regions without words: the greedy merge of the text tokens' maps by KL divergence (Seg4Diff, section 4.3).

The defaults are what the released code does; `region_maps` with variant "paper-text" is what the paper's text says.
"""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Variant = Literal["released", "paper-text"]
Maps = TypeVar("Maps", np.ndarray, Tensor)


def symmetric_kl(one: Float[Tensor, "rows cols"], maps: Float[Tensor, "tokens rows cols"]) -> Float[Tensor, " tokens"]:
    """(KL(one, map) + KL(map, one)) / 2 in nats, 0 or more, for each map; all are distributions over the grid."""
    tiny = torch.finfo(maps.dtype).tiny
    return ((one - maps) * (one.clamp(min=tiny).log() - maps.clamp(min=tiny).log())).sum((-2, -1)) / 2


def merge_by_kl(maps: Maps, threshold: float, *, reuse: bool = True) -> Maps:
    """Proposals (M, H, W) from maps (T, H, W): the greedy merge of the maps' softmaxes over the grid.

    In token order each map that is not matched yet is an anchor; the maps whose symmetric KL to it is under
    ``threshold`` are averaged into one proposal and count as matched. Each proposal is a distribution over the grid.

    Args:
        maps: real numbers, a map a token; NumPy or torch, and the proposals are the same.
        threshold: in nats, above 0; a larger one gives fewer proposals. The released code's is 0.1.
        reuse: average maps that an earlier anchor has matched again, as the released code does.
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
    """`merge_by_kl` for maps that are distributions over the grid already."""
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
    """Each grid point's values brought to [0, 1] by their own minimum and maximum over the tokens; 0 if all are equal."""
    low, high = maps.amin(0), maps.amax(0)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def region_maps(
    maps: Float[Tensor, "tokens rows cols"], threshold: float = 0.1, variant: str = "released", min_max: bool = True
) -> Float[Tensor, "proposals rows cols"]:
    """Proposals from the I2T probabilities of an empty prompt's tokens.

    "released" scales each grid point over the tokens (``min_max``), then takes `merge_by_kl`. "paper-text" scales each
    token's probabilities to sum to 1 over the grid and merges each map into one proposal only; it has no ``min_max``.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"regions: variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    if variant == "released":
        return merge_by_kl(scale_pixels(maps) if min_max else maps, threshold)
    mass = maps.sum((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    return merge_distributions(maps / mass, threshold, reuse=False)
