"""Open-vocabulary segmentation: argmax over class names of their tokens' I2T maps (Seg4Diff, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

MAX_ELEMENTS = 1 << 26
"""Upsampled maps that are held at once (256 MB of fp32): a large image with many classes needs no more."""


def class_maps(
    maps: Float[Tensor, "*batch rows cols tokens"], spans: Sequence[Sequence[int]]
) -> Float[Tensor, "*batch classes rows cols"]:
    """Mean map of each class's tokens; ``spans`` lists the token positions of each class."""
    return torch.stack([maps[..., list(span)].mean(-1) for span in spans], -3)


def label_map(maps: Float[Tensor, "classes rows cols"], size: tuple[int, int]) -> Int[Tensor, "height width"]:
    """Argmax over classes after bilinear upsampling to ``size`` (height, width), a few classes at a time."""
    step = max(1, MAX_ELEMENTS // (size[0] * size[1]))
    highest, labels = _upsampled(maps[:step], size).max(0)
    for start in range(step, len(maps), step):
        values, numbers = _upsampled(maps[start : start + step], size).max(0)
        labels = torch.where(values > highest, numbers + start, labels)
        highest = torch.maximum(values, highest)
    return labels


def _upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
