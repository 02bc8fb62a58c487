"""MAGNET's mask loss of a batch: matching maps with masks, and focal and dice loss of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..attention.joint import JointAttention
from ..configs import MagnetConfig
from .i2t_logits import head_logits, mean_logits, picked_logits
from .losses import dice_loss, focal_loss
from .matching import match_masks


@dataclass(frozen=True, eq=False)
class Target:
    """What the maps of one example are compared with.

    Attributes:
        masks: the share of each grid point that each mask covers, in [0, 1].
        spans: the text positions of each mask's class name (token matching).
        positions: the text positions whose maps may be matched (head matching).
    """

    masks: Float[Tensor, "masks rows cols"]
    spans: Sequence[Sequence[int]] = ()
    positions: Sequence[int] = ()


class MaskLoss(NamedTuple):
    """Focal and dice loss, means over the matched pairs of a batch, and the number of pairs."""

    focal: Tensor
    dice: Tensor
    pairs: int


def mask_loss(
    attention: JointAttention,
    targets: Sequence[Target],
    config: MagnetConfig,
    head: Callable[[Tensor], Tensor] | None = None,
) -> MaskLoss:
    """Focal and dice loss of one layer's I2T maps; both are 0, with gradient 0, if no example has a mask.

    ``head``, the `MaskHead` if there is one, is applied to the maps first.
    """
    pair = _token_pairs if config.matching == "token" else _head_pairs
    logits, masks = pair(attention, targets, config, head or _as_they_are)
    if not len(masks):
        nothing = attention.query.sum() * 0.0
        return MaskLoss(nothing, nothing, 0)
    return MaskLoss(focal_loss(logits, masks, released=config.released_focal), dice_loss(logits, masks), len(masks))


def _as_they_are(maps: Tensor) -> Tensor:
    return maps


def _token_pairs(
    attention: JointAttention, targets: Sequence[Target], config: MagnetConfig, head: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits and masks of the pairs: each class name's map, the mean over its tokens, with that class's mask."""
    maps = mean_logits(attention, config.read)
    if head is not _as_they_are:
        maps = head(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    chosen = [maps[row, list(span)].mean(0) for row, target in enumerate(targets) for span in target.spans]
    if not chosen:
        return maps[:0, 0], maps[:0, 0]
    return torch.stack(chosen), torch.cat([target.masks for target in targets]).to(maps)


def _head_pairs(
    attention: JointAttention, targets: Sequence[Target], config: MagnetConfig, head: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits and masks of the pairs: the maps of all heads and text positions, matched one to one with the masks."""
    with torch.no_grad():  # all maps enter the matching, but only the matched ones need gradients
        maps = head_logits(attention, config.read)
    predictions, masks = [maps[:0, 0, 0]], [maps[:0, 0, 0]]
    for row, target in enumerate(targets):
        if not len(target.masks):
            continue
        wanted = target.masks.to(maps)
        heads, positions, matched = _matched(maps[row], target, wanted, config, head)
        predictions.append(head(picked_logits(attention, row, heads, positions, config.read)))
        masks.append(wanted[torch.from_numpy(matched).to(maps.device)])
    return torch.cat(predictions), torch.cat(masks)


@torch.no_grad()
def _matched(
    maps: Tensor, target: Target, wanted: Tensor, config: MagnetConfig, head: Callable[[Tensor], Tensor]
) -> tuple[list[int], list[int], np.ndarray]:
    """Of one example's maps (heads, text, rows, cols): heads and text positions of the matched ones, and their masks' indices."""
    positions = list(target.positions)
    own = head(rearrange(maps[:, positions], "head text rows cols -> (text head) rows cols"))
    chosen, matched = match_masks(
        own,
        wanted,
        focal_weight=config.match_focal,
        dice_weight=config.match_dice,
        released=config.released_focal,
    )
    return (chosen % len(maps)).tolist(), [positions[place] for place in chosen // len(maps)], matched
