"""Image files at the size that a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..families import denoiser_of, family_of
from ..storage.images import fitted, read_rgb


def load_image(path: Path, pipe: Any, longest: int | None = None) -> np.ndarray:
    """An image file as (height, width, 3) uint8 RGB, ready for `record_image`.

    EXIF orientation is applied, transparency laid over white, grayscale, palette and CMYK images converted. The
    longer side becomes ``longest`` px (the model's own size if None), the shorter one keeps the proportions; both are
    rounded to the nearest multiple of the model's token size.

    Raises:
        ValueError: one line that names the file: missing, empty, damaged, no image, animated, more than 8 bits a
            channel, or too large.
    """
    return fitted(read_rgb(Path(path)), token_pixels(pipe), longest or native_size(pipe))


def token_pixels(pipe: Any) -> int:
    """Width of one image token in px: 16 for SD3 (a latent pixel is 8 px, a token 2 x 2 of them)."""
    return int(pipe.vae_scale_factor * getattr(pipe, "patch_size", family_of(denoiser_of(pipe)).patch))


def native_size(pipe: Any) -> int:
    """Width in px of the images that the pipeline makes by default: 1024 for SD3, and where the pipeline does not say."""
    return int(getattr(pipe, "default_sample_size", 128) * pipe.vae_scale_factor)
