"""A page's record with its image, and the image of any other record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ..storage.images import read_rgb
from ..studies.recording import Recording

_DIMS = ("image_row", "image_col", "rgb")


def with_image(recording: Recording) -> xr.Dataset:
    """The record with ``image`` (image_row, image_col, rgb), uint8, so that one file makes the page again."""
    return recording.record.assign(image=(_DIMS, recording.image))


def image_of(record: xr.Dataset, file: Path, given: Path | None = None) -> np.ndarray | None:
    """The image (height, width, 3) uint8 RGB that a record read from ``file`` is about, None if it can't be found.

    The one that the user gives, the one in the record, or image.png beside it, as the commands leave it. `ValueError`
    if its proportions are not those of the maps.
    """
    beside = file.with_name("image.png")
    if given is not None:
        image = read_rgb(given)
    elif "image" in record:
        image = record["image"].values
    elif beside.is_file():
        image = read_rgb(beside)
    else:
        return None
    rows, cols = (int(size) for size in np.atleast_1d(record.attrs["grid"])[-2:])
    height, width = image.shape[:2]
    if not 0.95 < (width / height) / (cols / rows) < 1.05:
        raise ValueError(
            f"explore: the image has {width} x {height} px, the maps {cols} x {rows} tokens; "
            "give the image that was recorded, with --image"
        )
    return image
