"""Records on disk: NetCDF files, sealed by a checksum."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xarray as xr

from ..utils.text import one_line
from .files import atomic_write

FORMAT = 1
"""Version of the record's names; a reader refuses another one."""


def versions() -> dict[str, str]:
    """Versions of what computes."""
    names = ("mmdit-probe", "torch", "diffusers", "transformers")
    return {"versions": json.dumps({"python": platform.python_version(), **{name: version(name) for name in names}})}


def save_record(dataset: xr.Dataset, path: Path) -> Path:
    """Write NetCDF, compressed, sealed by a checksum behind it; a kill leaves the old file or the new one.

    Other programs read the file as any NetCDF.
    """
    path = Path(path)
    packed = {name: {"zlib": True, "complevel": 1} for name, values in dataset.data_vars.items() if values.ndim}
    content = dataset.to_netcdf(engine="h5netcdf", encoding=packed)  # HDF5 never sees a disk that may be full
    with atomic_write(path) as part:
        part.write_bytes(b"".join([content, _seal(content)]))  # HDF5 does not look behind its own end
    return path


_MARK = b"mmdit-probe record "


def _seal(content: bytes | memoryview) -> bytes:
    """What stands at a record's end: a mark, and the SHA-256 of all that comes before."""
    return _MARK + hashlib.sha256(content).digest()


def _check_seal(path: Path) -> None:
    """`ValueError` if a sealed file is damaged: HDF5 may crash on it. Files of other programs have no seal."""
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ValueError(f"record: {path} can't be read ({error.strerror or error})") from error
    size = len(_seal(b""))
    seal = bytes(content[-size:])
    if seal.startswith(_MARK) and seal != _seal(content[:-size]):
        raise ValueError(f"record: {path} is not a readable NetCDF file any more, it is damaged; make it again")


def load_record(path: Path) -> xr.Dataset:
    """Read a record into memory; `ValueError` if the file is no record of this version, or damaged."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"record: no file {path}")
    _check_seal(path)
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            dataset = opened.load()
    except Exception as error:  # a damaged file fails anywhere in HDF5, h5netcdf or xarray
        raise ValueError(f"record: {path} is not a readable NetCDF file ({one_line(str(error), 200)})") from error
    found = dataset.attrs.get("format")
    if not isinstance(found, int | np.integer) or found != FORMAT:
        raise ValueError(
            f"record: {path} has format {found}, this version reads {FORMAT}; make it again with this version"
        )
    return dataset
