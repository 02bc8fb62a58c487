"""Masks of everything in an image: SAM or SAM 2 prompted with a grid of points."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..storage.images import squared
from .dense_clip import DINO_MEAN, DINO_STD, pixels

OVERLAP = 0.7
"""If two masks have a higher intersection over union, the one with the lower predicted quality is dropped."""
OFFSET = 1.0
"""Stability compares the masks thresholded this far above and below the logit 0."""


class SamMasks:
    """Masks of a transformers SamModel or Sam2Model.

    One mask for each point, as CorrCLIP asks for. The image is stretched to the model's square (the original SAM pads it), and
    near-duplicates are found by the masks themselves (the original generator compares their boxes).

    Args:
        model: such as facebook/sam2.1-hiera-large or facebook/sam-vit-huge.
        points: point prompts along each side of the grid.
        iou: least quality that the model predicts for a mask, in [0, 1].
        stability: least `stability_of` a mask, in [0, 1].
    """

    def __init__(self, model: Any, points: int = 8, iou: float = 0.4, stability: float = 0.4) -> None:
        self.model, self.points, self.iou, self.stability = model, points, iou, stability
        vision = model.config.vision_config
        size = getattr(vision, "image_size", None) or model.config.prompt_encoder_config.image_size
        self.side = int(size[0] if isinstance(size, list | tuple) else size)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Mask numbers (height, width) from 0, -1 where there is no mask; see `flattened`."""
        values = pixels(squared(image, self.side), DINO_MEAN, DINO_STD, self.model)[None]
        steps = (torch.arange(self.points) + 0.5) / self.points * self.side
        grid = torch.cartesian_prod(steps, steps).flip(-1)[None, :, None].to(values)
        made = self.model(pixel_values=values, input_points=grid, multimask_output=False)
        logits, quality = made.pred_masks[0].flatten(0, 1).float(), made.iou_scores[0].flatten().float()
        chosen = kept_masks(logits, quality, self.iou, self.stability)
        return flattened(self._upsampled(logits[chosen], image.shape[:2]))

    @staticmethod
    def _upsampled(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
        parts = [
            functional.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0, 0] > 0
            for one in logits
        ]
        return torch.stack(parts).cpu().numpy() if parts else np.zeros((0, *size), bool)


def stability_of(logits: Float[Tensor, "masks rows cols"], offset: float = OFFSET) -> Float[Tensor, " masks"]:
    """Area of the mask thresholded at +offset over its area at -offset, in [0, 1]; 0 for an empty mask."""
    inner, outer = (logits > offset).sum((1, 2)), (logits > -offset).sum((1, 2))
    return inner / outer.clamp(min=1)


def kept_masks(
    logits: Float[Tensor, "masks rows cols"], quality: Float[Tensor, " masks"], iou: float, stability: float
) -> list[int]:
    """Numbers of the masks of sufficient ``quality`` and stability, best first, without near-duplicates."""
    good = (quality >= iou) & (stability_of(logits) >= stability) & (logits > 0).any((1, 2))
    kept: list[int] = []
    shapes = (logits > 0).flatten(1)
    for number in sorted(good.nonzero().flatten().tolist(), key=lambda n: -float(quality[n])):
        if all(_overlap(shapes[number], shapes[other]) <= OVERLAP for other in kept):
            kept.append(number)
    return kept


def _overlap(one: Bool[Tensor, " pixels"], other: Bool[Tensor, " pixels"]) -> float:
    return float((one & other).sum() / (one | other).sum())


def flattened(masks: Bool[np.ndarray, "masks height width"]) -> np.ndarray:
    """Mask numbers of overlapping masks: from 0 by their area, larger ones on top of smaller ones; -1 where there is none."""
    numbers = np.full(masks.shape[1:], -1)
    for number, place in enumerate(np.argsort(masks.sum((1, 2)), kind="stable")):
        numbers[masks[place]] = number
    return numbers
