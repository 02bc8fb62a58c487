"""Matching I2T maps with masks: the Hungarian method on focal and dice costs (Seg4Diff, section 5)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .losses import pairwise_dice, pairwise_focal


@torch.no_grad()
def match_masks(
    logits: Float[Tensor, "predictions height width"],
    masks: Float[Tensor, "masks height width"],
    *,
    focal_weight: float = 0.02,
    dice_weight: float = 1.0,
    released: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The one-to-one matching with the least total cost ``focal_weight focal + dice_weight dice``.

    Returns the indices of the matched predictions, ascending, and of their masks: min(predictions, masks) pairs.
    ``released`` uses the released code's focal cost. `ValueError` if a cost is not finite.
    """
    focal = pairwise_focal(logits.float(), masks.float(), released=released)
    cost = focal_weight * focal + dice_weight * pairwise_dice(logits.float(), masks.float())
    if not bool(cost.isfinite().all()):
        raise ValueError("match_masks: a cost is not finite; the logits hold NaN or infinite values")
    return linear_sum_assignment(cost.cpu().numpy())
