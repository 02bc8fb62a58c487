"""Training examples: images with masks and captions, resized to the model's square and the token grid."""

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

    Attributes:
        image: (height, width, 3) uint8 RGB.
        masks: (masks, height, width) bool.
        names: each mask's class name; None if masks have no names, as in SA-1B.
        caption: text about the image.
    """

    image: np.ndarray
    masks: np.ndarray
    names: tuple[str, ...] | None
    caption: str = ""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Masked images by number.

    Attributes:
        name: the set's name.
        count: how many images it has.
        read: gives the image of a number from 0 to ``count`` - 1, always the same one.
        named: whether masks have class names.
        captioned: whether images have captions.
        digest: a fingerprint that differs from that of other sets of the same name.
    """

    name: str
    count: int
    read: Callable[[int], MaskedImage]
    named: bool
    captioned: bool
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """A masked image as the model takes it.

    Attributes:
        pixels: (side, side, 3) uint8 RGB.
        masks: the share of each grid point's area that each mask covers, in [0, 1].
        names: each mask's class name, None if masks have no names.
        caption: text about the image.
    """

    pixels: np.ndarray
    masks: Float[Tensor, "masks rows cols"]
    names: tuple[str, ...] | None
    caption: str


def masks_of(labels: np.ndarray, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The masks of the classes in a label map (height, width), as (masks, height, width) bool, and their names, by label."""
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
    """An image resized to ``side`` x ``side`` px, and its masks on the token grid.

    Empty masks and those that cover less than ``least_area`` of the cropped image are left out; of the others the
    ``most_masks`` largest are kept.
    """
    masks = np.stack([cropped(mask, crop) for mask in source.masks]) if len(source.masks) else source.masks
    kept = largest(masks, least_area, most_masks)
    names = None if source.names is None else tuple(source.names[number] for number in kept)
    pixels = squared(cropped(source.image, crop), side)
    return Example(pixels, on_grid(masks[kept], grid), names, source.caption)


def largest(masks: Bool[np.ndarray, "masks height width"], least_area: float, most: int) -> list[int]:
    """Indices of the ``most`` largest masks that cover ``least_area`` of the image or more, in ascending order."""
    shares = masks.mean((1, 2)) if len(masks) else np.zeros(0)
    enough = [number for number, share in enumerate(shares) if share > 0 and share >= least_area]
    return sorted(sorted(enough, key=lambda number: -shares[number])[:most])


def on_grid(masks: Bool[np.ndarray, "masks height width"], grid: tuple[int, int]) -> Float[Tensor, "masks rows cols"]:
    """The share of each grid point's area that each mask covers."""
    if not len(masks):
        return torch.zeros(0, *grid)
    return functional.interpolate(torch.from_numpy(masks)[None].float(), size=grid, mode="area")[0]


def first_sentences(caption: str, count: int | None) -> str:
    """The first ``count`` sentences of a caption, or all of it if ``count`` is None.

    >>> first_sentences("A dog. It sits on grass. The sky is blue.", 2)
    'A dog. It sits on grass.'
    """
    if count is None:
        return caption
    return " ".join(re.split(r"(?<=[.!?])\s+", caption.strip())[:count])
