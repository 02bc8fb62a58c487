"""Reading, resizing and writing images: (height, width, 3) uint8 RGB arrays, always upright."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..configs.segmentation import Crop
from .files import atomic_write

_PHOTOS = ("MPO",)
"""Formats whose first image is the photo, and the others small copies, depth or gain maps."""
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as (height, width, 3) uint8 RGB at its own size, rotated upright by its EXIF data.

    Transparent pixels are laid over white. `ValueError` if the file can't be opened (see `open_image`), is animated, or has
    more than 8 bits per channel.
    """
    return read_oriented(path)[0]


def read_oriented(path: Path) -> tuple[np.ndarray, int]:
    """`read_rgb`, and how the stored pixels were turned for it: EXIF's orientation, 1 to 8; 1 if they were not."""
    with open_image(path) as opened:
        _check(opened, path)
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
        image = np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))
    return image, orientation if orientation in _TURNS else 1


_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
"""What each of EXIF's orientations asks for, of arrays (height, width, ...)."""
_SIDEWAYS = 5
"""From this orientation on height and width change places."""


def turned_with(values: np.ndarray, image: np.ndarray, orientation: int, name: object) -> np.ndarray:
    """A label map or masks (height, width, ...) in the geometry of their image.

    They are taken to follow the file's stored pixels, and are turned as these were; unless they fit the turned image alone.

    Args:
        values: as they were read.
        image: their image as `read_oriented` gives it.
        orientation: what it gives next to it.
        name: the image's file or name, for the error.

    Raises:
        ValueError: they fit neither.
    """
    size = image.shape[:2]
    stored = size[::-1] if orientation >= _SIDEWAYS else size
    if values.shape[:2] == stored:
        return np.ascontiguousarray(_TURNS[orientation](values))
    if values.shape[:2] == size:
        return values
    also = f", which is stored as {stored}" if stored != size else ""
    raise ValueError(
        f"{name}: image and label map must have the same size, got {size}{also} and {values.shape[:2]} (height, width)"
    )


def _check(opened: Image.Image, path: Path) -> None:
    if getattr(opened, "is_animated", False) and opened.format not in _PHOTOS:
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


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with one of these suffixes, written in lower or upper case, in order of their names.

    Hidden files are left out, such as the ``._photo.jpg`` that macOS puts next to ``photo.jpg`` on other file systems.
    """
    names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    return [folder / name for name in sorted(names) if Path(name).suffix.lower() in suffixes]


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
