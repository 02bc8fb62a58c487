"""Class maps refined by an image's own attention, and label maps by its masks.

`smooth` is DiffSegmenter's (Wang et al. 2023, "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic
Segmenter"), `sharpened` and `iterate` are iSeg's (Sun et al. 2024, "iSeg: An Iterative Refinement-based Framework for
Training-free Segmentation"), `majority_vote` is CorrCLIP's map correction (Zhang et al. 2024, "CorrCLIP: Reconstructing
Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation"). Maps are (pixels, classes), a pixel a grid point.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .attention_rows import Rows, blocks, kept_if_small, normalized


def smooth(rows: Rows, maps: Float[Tensor, "pixels classes"], steps: int = 1) -> Float[Tensor, "pixels classes"]:
    """``T^steps A``: each pixel takes the mean of all pixels' maps, weighted by its attention, ``steps`` times.

    T's rows sum to 1, so that maps that sum to 1 over the classes still do.
    """
    if steps < 0:
        raise ValueError(f"smooth: steps must be 0 or more, got {steps}")
    rows = kept_if_small(rows, len(maps), len(maps)) if steps > 1 else rows
    for _ in range(steps):
        maps = torch.cat([block @ maps for block in blocks(rows, len(maps))])
    return maps


def sharpened(rows: Rows, pixels: int, strength: float) -> Rows:
    """iSeg's entropy reduction: each key's column divided by its maximum, ``T += strength log10(e T)``, 0 at least, rows
    brought to sum 1 again.

    Large entries grow and small ones vanish. A row that would vanish whole stays as it was. The columns' maxima take a
    pass over the rows of their own.
    """
    if strength < 0:
        raise ValueError(f"sharpened: the strength must be 0 or more, got {strength}")
    tiny = torch.finfo(torch.float32).tiny
    highest = torch.stack([block.amax(0) for block in blocks(rows, pixels)]).amax(0).clamp(min=tiny)

    def of(chosen: slice) -> Tensor:
        plain = rows(chosen)
        scaled = plain / highest
        moved = (scaled + strength * (1 + scaled.clamp(min=tiny).log()) / np.log(10)).clamp(min=0)
        return torch.where(moved.sum(-1, keepdim=True) > 0, normalized(moved), plain)

    return of


def iterate(rows: Rows, maps: Float[Tensor, "pixels classes"], steps: int) -> Float[Tensor, "pixels classes"]:
    """iSeg's iteration, ``steps`` times: ``A <- T A``, each class less its minimum, then divided by its sum."""
    rows = kept_if_small(rows, len(maps), len(maps))
    for _ in range(steps):
        maps = smooth(rows, maps)
        maps = maps - maps.amin(0)
        maps = maps / maps.sum(0).clamp(min=torch.finfo(maps.dtype).tiny)
    return maps


def min_max(maps: Float[Tensor, "pixels classes"]) -> Float[Tensor, "pixels classes"]:
    """Each class brought to [0, 1] by its own range; 0 where it is constant."""
    low, high = maps.amin(0), maps.amax(0)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def cluster_means(
    rows: Rows, maps: Float[Tensor, "pixels classes"], seeds: Int[Tensor, " seeds"], iterations: int
) -> Float[Tensor, "pixels classes"]:
    """Maps averaged inside clusters of pixels whose attention is alike.

    k-means with the Kullback-Leibler divergence on the attention's rows, from the rows of the pixels ``seeds``: each
    pixel joins the center with the smallest KL(row, center), each center becomes the mean of its rows.
    """
    pixels = len(maps)
    rows = kept_if_small(rows, pixels, pixels)
    centers = torch.cat([rows(slice(int(seed), int(seed) + 1)) for seed in seeds])
    joined = torch.zeros(pixels, dtype=torch.long, device=maps.device)
    for _ in range(iterations):
        logs = centers.clamp(min=1e-12).log().T
        joined = torch.cat([(block @ logs).argmax(-1) for block in blocks(rows, pixels)])
        centers = _sums(rows, joined, centers)
    members = torch.nn.functional.one_hot(joined, len(centers)).to(maps)
    means = members.T @ maps / members.sum(0).clamp(min=1)[:, None]
    return means[joined]


def _sums(rows: Rows, joined: Tensor, centers: Tensor) -> Tensor:
    """The mean row of each cluster; an empty one keeps its center."""
    total, start = torch.zeros_like(centers), 0
    for block in blocks(rows, len(joined)):
        total.index_add_(0, joined[start : start + len(block)], block)
        start += len(block)
    count = joined.bincount(minlength=len(centers)).to(centers)[:, None]
    return torch.where(count > 0, total / count.clamp(min=1), centers)


def majority_vote(labels: Int[np.ndarray, "height width"], masks: Int[np.ndarray, "rows cols"]) -> np.ndarray:
    """Labels with every mask given the label that most of its pixels have, the smallest one of several.

    ``masks`` numbers the masks from 0; pixels at -1 belong to none and keep their label.
    """
    if labels.shape != masks.shape:
        raise ValueError(f"majority_vote: labels are {labels.shape}, masks {masks.shape}; they must agree")
    inside = masks >= 0
    if not inside.any():
        return labels
    classes = int(labels.max()) + 1
    joint = np.bincount(
        masks[inside].astype(np.int64) * classes + labels[inside], minlength=(masks.max() + 1) * classes
    )
    winners = joint.reshape(-1, classes).argmax(1)
    return np.where(inside, winners[np.maximum(masks, 0)], labels).astype(labels.dtype)
