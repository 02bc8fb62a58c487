"""From I2T maps to label maps: the argmax over class names of their tokens' mean maps (Seg4Diff, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

MAX_ELEMENTS = 1 << 26
"""Elements of upsampled maps in memory at once (256 MB of fp32), however large the image and many the classes."""


def class_maps(
    maps: Float[Tensor, "*batch rows cols tokens"], spans: Sequence[Sequence[int]]
) -> Float[Tensor, "*batch classes rows cols"]:
    """The mean map of each class's tokens; ``spans`` holds the token positions of each class."""
    return torch.stack([maps[..., list(span)].mean(-1) for span in spans], -3)


def label_map(maps: Float[Tensor, "classes rows cols"], size: tuple[int, int]) -> Int[Tensor, "height width"]:
    """Number of the class with the highest map at each pixel, after bilinear upsampling to ``size`` (height, width).

    >>> import torch
    >>> maps = torch.tensor([[[0.9, 0.2]], [[0.1, 0.8]]])
    >>> label_map(maps, (1, 4))
    tensor([[0, 0, 1, 1]])
    """
    step = max(1, MAX_ELEMENTS // (size[0] * size[1]))
    highest, labels = _upsampled(maps[:step], size).max(0)
    for start in range(step, len(maps), step):
        values, numbers = _upsampled(maps[start : start + step], size).max(0)
        labels = torch.where(values > highest, numbers + start, labels)
        highest = torch.maximum(values, highest)
    return labels


def _upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
