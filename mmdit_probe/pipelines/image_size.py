"""The image sizes that a model takes, and image files resized to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..families import Pipeline, default_latent_side, latent_pixels, token_latents
from ..storage.images import fitted, read_rgb
from .defaults import told_defaults


def load_image(path: Path, pipe: Pipeline, longest: int | None = None) -> np.ndarray:
    """An image file as (height, width, 3) uint8 RGB, ready for `record_image`.

    EXIF orientation is applied, transparency is laid over white, grayscale, palette and CMYK images are converted. The
    longer side becomes ``longest`` px (the model's own size if None) and the shorter one keeps the proportions; both are
    rounded to the nearest multiple of the model's token size.

    Raises:
        ValueError: the file is missing, empty, damaged, no image, animated, too large, or has more than 8 bits a channel;
            one line that names it.
    """
    return fitted(read_rgb(Path(path)), token_pixels(pipe), longest or native_size(pipe))


def token_pixels(pipe: Pipeline) -> int:
    """Width of one image token in px: 16 for SD3 (a latent pixel is 8 px, a token 2 x 2 of them)."""
    return latent_pixels(pipe) * token_latents(pipe)


def native_size(pipe: Pipeline) -> int:
    """Width in px of the images that the pipeline makes by default: 1024 for SD3, and if nothing says it.

    The model's ``probe_defaults.json`` is asked first, then the pipeline.
    """
    told = told_defaults(pipe)
    if told is not None and told.side is not None:
        return told.side
    side = default_latent_side(pipe)
    return (128 if side is None else side) * latent_pixels(pipe)
