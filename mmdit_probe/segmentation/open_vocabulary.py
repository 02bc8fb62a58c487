"""Open-vocabulary segmentation: argmax over class names of their tokens' I2T maps (Seg4Diff, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def class_maps(
    maps: Float[Tensor, "*batch rows cols tokens"], spans: Sequence[Sequence[int]]
) -> Float[Tensor, "*batch classes rows cols"]:
    """Mean map of each class's tokens; ``spans`` lists the token positions of each class."""
    return torch.stack([maps[..., list(span)].mean(-1) for span in spans], -3)


def label_map(maps: Float[Tensor, "classes rows cols"], size: tuple[int, int]) -> Int[Tensor, "height width"]:
    """Argmax over classes after bilinear upsampling to ``size`` (height, width)."""
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)
