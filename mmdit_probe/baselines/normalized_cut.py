"""Regions from features by recursive normalized cuts (DiffCut: Couairon et al. 2024, "DiffCut: Catalyzing Zero-Shot
Semantic Segmentation with Diffusion Features and Recursive Normalized Cut").
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attention.kernels import FUSED
from ..utils.scaling import min_max

SMALLEST = 2
"""Sets of fewer nodes are not split."""


def affinity(features: Float[Tensor, "nodes width"], power: float = 10.0) -> Float[Tensor, "nodes nodes"]:
    """((cos - min) / (max - min))^power of each pair of features, in [0, 1]; 1 if all pairs are equal.

    The minimum and maximum are over all pairs.
    """
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    cosine = unit @ unit.T
    if cosine.max() - cosine.min() < 1e-9:
        return torch.ones_like(cosine)
    return min_max(cosine) ** power


def cut_values(weights: Float[Tensor, "n n"], sides: Bool[Tensor, "candidates n"]) -> Float[Tensor, " candidates"]:
    """The normalized cut of each bipartition: cut / mass of one side + cut / mass of the other, in [0, 2].

    A side's mass is the sum of its nodes' weights to all nodes; a bipartition with an empty side has the value 2.
    """
    inside = sides.to(weights)
    degree = weights.sum(1)
    cut = ((inside @ weights) * (1 - inside)).sum(1)
    one, other = inside @ degree, (1 - inside) @ degree
    empty = sides.all(1) | (~sides).all(1)
    tiny = torch.finfo(weights.dtype).tiny
    return torch.where(empty, 2.0, cut / one.clamp(min=tiny) + cut / other.clamp(min=tiny))


def best_cut(weights: Float[Tensor, "n n"], thresholds: int = 100) -> tuple[Bool[Tensor, " n"], float]:
    """One side of the best bipartition along the second eigenvector, and its normalized cut.

    The eigenvector is that of ``D^-1/2 (D - A) D^-1/2``. It is cut at ``thresholds`` values between its least and its
    greatest entry, and the best cut is taken.
    """
    scale = weights.sum(1).clamp(min=torch.finfo(weights.dtype).tiny).rsqrt()
    laplacian = torch.eye(len(weights)).to(weights) - scale[:, None] * weights * scale[None]
    first = torch.nn.functional.normalize(1 / scale, dim=0)  # the first eigenvector, with eigenvalue 0
    # moved to the other end of the spectrum: unconnected parts have eigenvalue 0 too and would mix with it
    second = torch.linalg.eigh(laplacian + 2 * first[:, None] * first[None]).eigenvectors[:, 0]
    steps = torch.linspace(0, 1, thresholds).to(weights) * (second.max() - second.min()) + second.min()
    sides = second[None] > steps[:, None]
    values = cut_values(weights, sides)
    best = int(values.argmin())
    return sides[best], float(values[best])


def recursive_cut(
    features: Float[Tensor, "nodes width"], tau: float = 0.5, power: float = 10.0, thresholds: int = 100
) -> Int[Tensor, " nodes"]:
    """Region number of each node: a set of nodes is split in two while the best normalized cut is below ``tau``.

    Computed in fp64, on the CPU if the device has no fp64 (MPS). `ValueError` if ``tau`` is not above 0.
    """
    if not tau > 0:
        raise ValueError(f"recursive_cut: tau must be above 0, got {tau}; 0.5 is DiffCut's")
    place = features.device if features.device.type in FUSED else torch.device("cpu")
    weights = affinity(features.to(place), power)
    regions = torch.zeros(len(features), dtype=torch.long, device=place)
    waiting, found = [torch.arange(len(features), device=place)], 0
    while waiting:
        nodes = waiting.pop()
        side, value = best_cut(weights[nodes][:, nodes], thresholds) if len(nodes) >= SMALLEST else (None, 2.0)
        if side is not None and value < tau:
            waiting += [nodes[~side], nodes[side]]
            continue
        regions[nodes] = found
        found += 1
    return regions.to(features.device)


def region_cosines(
    features: Float[Tensor, "nodes width"], regions: Int[Tensor, " nodes"], finer: Float[Tensor, "width rows cols"]
) -> Float[Tensor, "regions rows cols"]:
    """Cosine of each point of a ``finer`` feature map with each region's mean feature, in [-1, 1]."""
    members = torch.nn.functional.one_hot(regions).to(features)
    prototypes = torch.nn.functional.normalize(members.T @ features / members.sum(0)[:, None], dim=-1)
    return torch.einsum("kd,dij->kij", prototypes, torch.nn.functional.normalize(finer, dim=0))
