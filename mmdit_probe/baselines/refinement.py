"""Class maps refined by an image's own attention, and label maps corrected by its masks.

`smooth` is DiffSegmenter's (Wang et al. 2023, "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic
Segmenter"), `sharpened` and `iterate` are iSeg's (Sun et al. 2024, "iSeg: An Iterative Refinement-based Framework for
Training-free Segmentation"), `majority_vote` is CorrCLIP's map correction (Zhang et al. 2024, "CorrCLIP: Reconstructing
Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation"). Maps are (pixels, classes); a pixel is a point of the grid.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .attention_rows import Rows, normalized


def smooth(rows: Rows, maps: Float[Tensor, "pixels classes"], steps: int = 1) -> Float[Tensor, "pixels classes"]:
    """``T^steps A``: each pixel takes the mean of all pixels' maps, weighted by its attention, ``steps`` times.

    T's rows sum to 1; maps that sum to 1 over the classes still do afterwards.
    """
    if steps < 0:
        raise ValueError(f"smooth: steps must be 0 or more, got {steps}")
    rows = rows.kept_if_small() if steps > 1 else rows
    for _ in range(steps):
        maps = torch.cat([block @ maps for block in rows.blocks()])
    return maps


def sharpened(rows: Rows, strength: float) -> Rows:
    """iSeg's entropy reduction: divide each key's column by its maximum, add ``strength log10(e T)``, clip at 0, and divide
    each row by its sum.

    Large entries grow and small ones vanish. A row that would vanish completely stays unchanged. Finding the columns'
    maxima takes an extra pass over the rows. ``strength`` is at least 0.
    """
    if strength < 0:
        raise ValueError(f"sharpened: the strength must be 0 or more, got {strength}")
    tiny = torch.finfo(torch.float32).tiny
    highest = torch.stack([block.amax(0) for block in rows.blocks()]).amax(0).clamp(min=tiny)

    def read(chosen: slice) -> Tensor:
        plain = rows[chosen]
        scaled = plain / highest
        moved = (scaled + strength * (1 + scaled.clamp(min=tiny).log()) / np.log(10)).clamp(min=0)
        return torch.where(moved.sum(-1, keepdim=True) > 0, normalized(moved), plain)

    return Rows(read, len(rows))


def iterate(rows: Rows, maps: Float[Tensor, "pixels classes"], steps: int) -> Float[Tensor, "pixels classes"]:
    """iSeg's iteration, ``steps`` times: ``A <- T A``, then subtract each class's minimum and divide by its sum."""
    rows = rows.kept_if_small()
    for _ in range(steps):
        maps = smooth(rows, maps)
        maps = maps - maps.amin(0)
        maps = maps / maps.sum(0).clamp(min=torch.finfo(maps.dtype).tiny)
    return maps


def majority_vote(labels: Int[np.ndarray, "height width"], masks: Int[np.ndarray, "rows cols"]) -> np.ndarray:
    """Labels in which every mask has the label of most of its pixels, the smallest such label in a tie.

    ``masks`` holds mask numbers from 0; pixels at -1 are in no mask and keep their label.
    """
    if labels.shape != masks.shape:
        raise ValueError(
            f"majority_vote: labels and masks must have the same shape, got {labels.shape} and {masks.shape}"
        )
    inside = masks >= 0
    if not inside.any():
        return labels
    classes = int(labels.max()) + 1
    joint = np.bincount(
        masks[inside].astype(np.int64) * classes + labels[inside], minlength=(masks.max() + 1) * classes
    )
    winners = joint.reshape(-1, classes).argmax(1)
    return np.where(inside, winners[np.maximum(masks, 0)], labels).astype(labels.dtype)
