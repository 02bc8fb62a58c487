"""A page's record with its picture, and the picture of any other record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ..storage.images import read_rgb
from ..studies.recording import Recording

_DIMS = ("picture_row", "picture_col", "rgb")


def with_picture(recording: Recording) -> xr.Dataset:
    """The record with ``picture`` (picture_row, picture_col, rgb), uint8, so that one file makes the page again."""
    return recording.record.assign(picture=(_DIMS, recording.picture))


def picture_of(record: xr.Dataset, file: Path, given: Path | None = None) -> np.ndarray | None:
    """The picture (height, width, 3) uint8 RGB that a record read from ``file`` is about, None if it can't be found.

    The one that the user gives, the one in the record, or picture.png beside it, as the commands leave it. `ValueError`
    if its proportions are not those of the maps.
    """
    beside = file.with_name("picture.png")
    if given is not None:
        picture = read_rgb(given)
    elif "picture" in record:
        picture = record["picture"].values
    elif beside.is_file():
        picture = read_rgb(beside)
    else:
        return None
    rows, cols = (int(size) for size in np.atleast_1d(record.attrs["grid"])[-2:])
    height, width = picture.shape[:2]
    if not 0.95 < (width / height) / (cols / rows) < 1.05:
        raise ValueError(
            f"explore: the picture has {width} x {height} px, the maps {cols} x {rows} tokens; "
            "give the picture that was recorded, with --picture"
        )
    return picture
