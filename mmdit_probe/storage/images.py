"""Reading, resizing and writing images: (height, width, 3) uint8 RGB arrays, always upright."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageOps

from ..configs.segmentation import Crop
from .files import atomic_write

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as (height, width, 3) uint8 RGB at its own size, rotated upright by its EXIF data.

    Transparent pixels are laid over white. `ValueError` if the file can't be opened (see `open_image`), is animated, or has
    more than 8 bits per channel.
    """
    with open_image(path) as opened:
        _check(opened, path)
        return np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))


def _check(opened: Image.Image, path: Path) -> None:
    if getattr(opened, "is_animated", False):
        frames = getattr(opened, "n_frames", 2)
        raise ValueError(f"image: {path} has {frames} frames; save the one you want as a PNG file")
    if opened.mode in _DEEP:
        raise ValueError(f"image: {path} has more than 8 bits per channel ({opened.mode}); convert it to 8 bits first")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def fitted(image: np.ndarray, multiple: int, longest: int) -> np.ndarray:
    """The image (height, width, 3), resized so that its longer side is about ``longest`` px.

    Both sides are rounded to the nearest multiple of ``multiple`` px, the size of a token.
    """
    if longest < multiple:
        raise ValueError(f"image: the longer side must be at least {multiple} px, the size of a token, got {longest}")
    height, width = (fitted_side(side, max(image.shape[:2]), multiple, longest) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def fitted_side(side: int, longer: int, multiple: int, longest: int) -> int:
    """A side in px, scaled by ``longest / longer`` and rounded to the nearest multiple, at least one of them."""
    return max(1, round(side * longest / longer / multiple)) * multiple


def save_image(image: np.ndarray, path: Path) -> Path:
    """Write (height, width, 3) uint8 RGB atomically as PNG."""
    with atomic_write(path) as part:
        Image.fromarray(image).save(part, format="PNG")
    return path


MAX_PIXELS = 100_000_000
"""Images with more pixels are refused before they are decoded."""


@contextmanager
def open_image(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """Open an image file with PIL; it is decoded inside the with block.

    Raises:
        ValueError: the file is missing, empty, damaged, not an image, or has more than `MAX_PIXELS`; also for errors while
            it is decoded inside the with block.
    """
    if not path.is_file():
        raise ValueError(f"{what}: no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{what}: {path} is empty; give a PNG, JPEG, WebP, BMP or TIFF file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, and sizes, which are checked here
            with Image.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"{what}: {path} has {opened.width} x {opened.height} px; {_LIMIT}")
                yield opened
    except Image.DecompressionBombError as error:
        raise ValueError(f"{what}: {path} is too large; {_LIMIT}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{what}: {path} is not an image that can be read; give a PNG, JPEG, WebP, BMP or TIFF file"
        ) from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{what}: {path} is damaged or cut short ({error}); save it again") from error


_LIMIT = f"at most {MAX_PIXELS} px are read; scale it down"


def cropped(image: np.ndarray, crop: str) -> np.ndarray:
    """The part of an image (height, width, ...) that is used: all of it ("stretch"), or its central square ("center")."""
    if crop not in get_args(Crop):
        raise ValueError(f"crop must be one of {', '.join(get_args(Crop))}, got {crop!r}")
    if crop == "stretch":
        return image
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """An image, given as an array or by PIL, as (height, width, 3) uint8 RGB; `ValueError` if its shape or type differs."""
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image must be (height, width, 3) uint8 RGB, got {array.shape} {array.dtype}")
    return array


def squared(image: np.ndarray, side: int) -> np.ndarray:
    """The image (height, width, 3), stretched to ``side`` x ``side`` px."""
    return resized(image, (side, side))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image (height, width, 3) uint8 at ``size`` (height, width), interpolated bilinearly.

    As the released evaluations do, each pixel is made of the four nearest ones, also where the image shrinks.
    """
    if image.shape[:2] == size:
        return image
    import torch
    from torch.nn import functional

    values = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    made = functional.interpolate(values, size=size, mode="bilinear", align_corners=False)
    return made[0].round().permute(1, 2, 0).to(torch.uint8).numpy()
