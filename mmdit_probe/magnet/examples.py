"""What MAGNET learns from: images with masks and captions, brought to the model's square and the token grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from ..datasets.labeled import IGNORE
from ..storage.images import cropped, squared


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """One training image.

    ``image`` is (height, width, 3) uint8 RGB, ``masks`` (masks, height, width) bool. ``names`` are the classes of the
    masks, None where masks have no names, as in SA-1B.
    """

    image: np.ndarray
    masks: np.ndarray
    names: tuple[str, ...] | None
    caption: str = ""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """``count`` masked images; ``read(number)`` gives one, the same each time. ``named`` says whether masks have names.

    ``digest`` tells the set from others of the same name.
    """

    name: str
    count: int
    read: Callable[[int], MaskedImage]
    named: bool
    captioned: bool
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """A masked image as the model takes it: square px (side, side, 3) uint8 and masks as shares of each grid point."""

    pixels: np.ndarray
    masks: Float[Tensor, "masks rows cols"]
    names: tuple[str, ...] | None
    caption: str


def masks_of(labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(masks, height, width) bool and the name of each class of a label map, in its order."""
    present = [int(number) for number in np.unique(labels) if number != IGNORE]
    masks = np.stack([labels == number for number in present]) if present else np.zeros((0, *labels.shape), bool)
    return masks, tuple(classes[number] for number in present)


def prepared(
    source: MaskedImage,
    side: int,
    grid: tuple[int, int],
    *,
    crop: str = "center",
    least_area: float = 0.0,
    most_masks: int = 32,
) -> Example:
    """The image at ``side`` px, and its masks on the token grid, largest first where there are too many.

    A grid point holds the share of its area that the mask covers, in [0, 1]. Masks of less than ``least_area`` of the
    cropped image, and empty ones, are left out.
    """
    masks = np.stack([cropped(mask, crop) for mask in source.masks]) if len(source.masks) else source.masks
    kept = largest(masks, least_area, most_masks)
    names = None if source.names is None else tuple(source.names[number] for number in kept)
    pixels = squared(cropped(source.image, crop), side)
    return Example(pixels, on_grid(masks[kept], grid), names, source.caption)


def largest(masks: Bool[np.ndarray, "masks height width"], least_area: float, most: int) -> list[int]:
    """Numbers of the masks that are not empty and cover ``least_area`` or more, of these the ``most`` largest, in order."""
    shares = masks.mean((1, 2)) if len(masks) else np.zeros(0)
    enough = [number for number, share in enumerate(shares) if share > 0 and share >= least_area]
    return sorted(sorted(enough, key=lambda number: -shares[number])[:most])


def on_grid(masks: Bool[np.ndarray, "masks height width"], grid: tuple[int, int]) -> Float[Tensor, "masks rows cols"]:
    """The share of each grid point's area that each mask covers."""
    if not len(masks):
        return torch.zeros(0, *grid)
    return functional.interpolate(torch.from_numpy(masks)[None].float(), size=grid, mode="area")[0]


def first_sentences(caption: str, count: int | None) -> str:
    """The first ``count`` sentences of a caption, all of it if None."""
    if count is None:
        return caption
    return " ".join(re.split(r"(?<=[.!?])\s+", caption.strip())[:count])
