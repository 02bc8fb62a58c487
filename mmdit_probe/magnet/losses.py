"""Dice and focal loss on I2T logits, for given pairs and for all pairings of maps and masks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ALPHA, GAMMA = 0.25, 2.0
"""Weight of the pixels inside the mask, and the exponent that reduces the loss of pixels that are right already."""


def dice_loss(logits: Float[Tensor, "masks height width"], masks: Float[Tensor, "masks height width"]) -> Tensor:
    """``1 - (2 |A n B| + 1) / (|A| + |B| + 1)`` of soft masks, mean over the pairs, in [0, 1)."""
    inside, target = logits.flatten(1).sigmoid(), masks.flatten(1)
    overlap = 2 * (inside * target).sum(1) + 1
    return (1 - overlap / (inside.sum(1) + target.sum(1) + 1)).mean()


def focal_loss(
    logits: Float[Tensor, "masks height width"],
    masks: Float[Tensor, "masks height width"],
    *,
    released: bool = False,
) -> Tensor:
    """Focal loss (alpha 0.25, gamma 2), mean over pixels and pairs.

    ``released`` reproduces the released MAGNET code, which uses raw logits in place of probabilities.
    """
    prob = logits if released else logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    right = prob * masks + (1 - prob) * (1 - masks)
    weight = ALPHA * masks + (1 - ALPHA) * (1 - masks)
    return (weight * (1 - right) ** GAMMA * entropy).mean()


def pairwise_dice(
    logits: Float[Tensor, "predictions height width"], masks: Float[Tensor, "masks height width"]
) -> Float[Tensor, "predictions masks"]:
    """`dice_loss` of every prediction with every mask."""
    inside, target = logits.flatten(1).sigmoid(), masks.flatten(1)
    overlap = 2 * inside @ target.T + 1
    return 1 - overlap / (inside.sum(1)[:, None] + target.sum(1)[None] + 1)


def pairwise_focal(
    logits: Float[Tensor, "predictions height width"],
    masks: Float[Tensor, "masks height width"],
    *,
    released: bool = False,
) -> Float[Tensor, "predictions masks"]:
    """`focal_loss` of every prediction with every mask, by two matrix products."""
    flat, target = logits.flatten(1), masks.flatten(1)
    prob = flat if released else flat.sigmoid()
    as_inside = ALPHA * (1 - prob) ** GAMMA * functional.softplus(-flat)
    as_outside = (1 - ALPHA) * prob**GAMMA * functional.softplus(flat)
    return (as_inside @ target.T + as_outside @ (1 - target).T) / flat.shape[1]
