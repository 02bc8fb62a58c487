"""Storing the image with a page's record, and finding the image of any record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ..storage.images import read_rgb
from ..studies.recording import Recording

_DIMS = ("image_row", "image_col", "rgb")


def with_image(recording: Recording) -> xr.Dataset:
    """The record with ``image`` (image_row, image_col, rgb) uint8, so that the page can be made again from one file."""
    return recording.record.assign(image=(_DIMS, recording.image))


def image_of(record: xr.Dataset, file: Path, given: Path | None = None) -> np.ndarray | None:
    """The image (height, width, 3) uint8 RGB of a record that was read from ``file``, None if there is none.

    It is the file ``given``, else the image in the record, else image.png in the record's folder, where the commands
    write it. `ValueError` if its proportions differ from those of the maps.
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
            "give the recorded image with --image"
        )
    return image
