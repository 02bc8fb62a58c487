"""Picture files as the model takes them: upright, RGB, sides divisible by the model's token size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .families import denoiser_of, family_of
from .files import open_picture, whole

_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def load_image(path: Path, pipe: Any, longest: int | None = None) -> np.ndarray:
    """A picture file as (height, width, 3) uint8 RGB, ready for `record_image`.

    EXIF orientation is applied, transparency laid over white, greyscale, palette and CMYK pictures converted. The
    longer side becomes ``longest`` px (the model's own size if None), the shorter one keeps the proportions; both are
    rounded to the nearest multiple of the model's token size.

    Raises:
        ValueError: one line that names the file: missing, empty, damaged, no picture, animated, more than 8 bits a
            channel, or too large.
    """
    return fitted(read_rgb(Path(path)), token_pixels(pipe), longest or native_size(pipe))


def token_pixels(pipe: Any) -> int:
    """Width of one image token in px: 16 for SD3 (a latent pixel is 8 px, a token 2 x 2 of them)."""
    return int(pipe.vae_scale_factor * getattr(pipe, "patch_size", family_of(denoiser_of(pipe)).patch))


def native_size(pipe: Any) -> int:
    """Width in px of the pictures that the pipeline makes by default: 1024 for SD3, and where the pipeline does not say."""
    return int(getattr(pipe, "default_sample_size", 128) * pipe.vae_scale_factor)


def read_rgb(path: Path) -> np.ndarray:
    """A picture file as (height, width, 3) uint8 RGB, upright, at its own size; `ValueError` as in `load_image`."""
    with open_picture(path) as opened:
        _check(opened, path)
        return np.asarray(_to_rgb(ImageOps.exif_transpose(opened)))


def _check(opened: Image.Image, path: Path) -> None:
    if getattr(opened, "is_animated", False):
        frames = getattr(opened, "n_frames", 2)
        raise ValueError(f"image: {path} has {frames} frames; save the one you mean as a PNG file")
    if opened.mode in _DEEP:
        raise ValueError(f"image: {path} has more than 8 bits a channel ({opened.mode}); convert it to 8 bits first")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def fitted(picture: np.ndarray, multiple: int, longest: int) -> np.ndarray:
    """The picture (height, width, 3) resized: longer side ``longest``, both sides the nearest multiple of ``multiple``."""
    if longest < multiple:
        raise ValueError(
            f"image: the longer side must be at least {multiple} px, the model's token size; got {longest}"
        )
    height, width = (fitted_side(side, max(picture.shape[:2]), multiple, longest) for side in picture.shape[:2])
    if (height, width) == picture.shape[:2]:
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def fitted_side(side: int, longer: int, multiple: int, longest: int) -> int:
    """A side scaled by ``longest / longer`` and rounded to the nearest multiple, at least one."""
    return max(1, round(side * longest / longer / multiple)) * multiple


def save_picture(picture: np.ndarray, path: Path) -> Path:
    """Write (height, width, 3) uint8 RGB as PNG; a kill leaves the old file or the new one."""
    with whole(path) as part:
        Image.fromarray(picture).save(part, format="PNG")
    return path
