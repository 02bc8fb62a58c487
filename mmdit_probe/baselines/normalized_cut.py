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
INSIDE = 0.99
"""Thresholds lie between the vector's extremes times this."""


def affinity(features: Float[Tensor, "nodes width"], power: float = 10.0) -> Float[Tensor, "nodes nodes"]:
    """((cos - min) / (max - min))^power of each pair of features, in [0, 1]; 1 if all pairs are equal.

    The minimum and maximum are over all pairs. Features are normalized in single precision, as in the released code, whose
    rounding decides between equal nodes, and compared in double precision.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=-1).double()
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


def cut_vector(weights: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """The vector along which nodes are split: D^-1/2 times the second eigenvector of ``D^-1/2 (D - A) D^-1/2``.

    Its sign makes the entry of the largest magnitude positive, the first of those that are equal in single precision.
    """
    scale = weights.sum(1).clamp(min=torch.finfo(weights.dtype).tiny).rsqrt()
    laplacian = torch.eye(len(weights)).to(weights) - scale[:, None] * weights * scale[None]
    first = torch.nn.functional.normalize(1 / scale, dim=0)  # the first eigenvector, with eigenvalue 0
    # moved to the other end of the spectrum: unconnected parts have eigenvalue 0 too and would mix with it
    second = torch.linalg.eigh(laplacian + 2 * first[:, None] * first[None]).eigenvectors[:, 0]
    vector = scale * second
    return vector * vector[vector.float().abs().argmax()].sign()


def best_cut(weights: Float[Tensor, "n n"], thresholds: int = 100) -> tuple[Bool[Tensor, " n"], float]:
    """The nodes on the upper side of the best bipartition along the `cut_vector`, and its normalized cut.

    The vector is cut at ``thresholds`` values from 0.99 times its least to 0.99 times its greatest entry, and the best cut
    is taken, the first of equal ones.
    """
    vector = cut_vector(weights)
    low, high = INSIDE * vector.min(), INSIDE * vector.max()
    steps = low + torch.linspace(0, 1, thresholds).to(weights) * (high - low)
    sides = vector[None] > steps[:, None]
    values = cut_values(weights, sides)
    best = int(values.argmin())
    return sides[best], float(values[best])


def recursive_cut(
    features: Float[Tensor, "nodes width"], tau: float = 0.5, power: float = 10.0, thresholds: int = 100
) -> Int[Tensor, " nodes"]:
    """Region number of each node: a set of nodes is split in two while the best normalized cut is below ``tau``.

    As in the released code, nodes that have no affinity at all to some other node (in single precision) take part in the first
    split only; later they stay on the lower side. Regions are numbered by the splits: the part on the upper side of a split
    comes behind everything found before it. Computed in fp64, on the CPU if the device has no fp64 (MPS). `ValueError` if
    ``tau`` is not above 0.
    """
    if not tau > 0:
        raise ValueError(f"recursive_cut: tau must be above 0, got {tau}; 0.5 is DiffCut's")
    place = features.device if features.device.type in FUSED else torch.device("cpu")
    weights = affinity(features.to(place), power)
    unlinked = (weights.float() == 0).any(1)
    codes = torch.zeros(len(features), dtype=torch.long, device=place)
    waiting = [torch.arange(len(features), device=place)]
    while waiting:
        nodes = waiting.pop()
        taking_part = nodes if len(nodes) == len(features) else nodes[~unlinked[nodes]]
        if len(taking_part) < SMALLEST:
            continue
        side, value = best_cut(weights[taking_part][:, taking_part], thresholds)
        if not value < tau:
            continue
        upper = taking_part[side]
        codes[upper] += int(codes.max()) + 1
        waiting += [nodes[~torch.isin(nodes, upper)], upper]  # the upper side is split on first
    return codes.unique(return_inverse=True)[1].to(features.device)


def region_scores(
    features: Float[Tensor, "nodes width"], regions: Int[Tensor, " nodes"], finer: Float[Tensor, "width rows cols"]
) -> Float[Tensor, "regions rows cols"]:
    """Dot product of each point of a ``finer`` feature map with the mean of each region's unit features, in [-1, 1].

    ``finer`` holds unit features, or interpolations between them.
    """
    members = torch.nn.functional.one_hot(regions).to(features)
    prototypes = members.T @ torch.nn.functional.normalize(features, dim=-1) / members.sum(0)[:, None]
    return torch.einsum("kd,dij->kij", prototypes, finer)
