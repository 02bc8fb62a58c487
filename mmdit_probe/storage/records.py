"""Records on disk: NetCDF files with a checksum."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import xarray as xr

from ..utils.text import one_line
from .files import atomic_write

FORMAT = 1
"""Version of the names in a record; `load_record` refuses any other."""


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # imported from a folder of sources
        return "not installed"


def versions() -> dict[str, str]:
    """Attributes of a record: the versions of Python and the libraries that computed it, as JSON."""
    names = ("mmdit-probe", "torch", "diffusers", "transformers")
    return {"versions": json.dumps({"python": platform.python_version(), **{name: _version(name) for name in names}})}


def save_record(dataset: xr.Dataset, path: Path) -> Path:
    """Write a record atomically as compressed NetCDF, followed by a checksum.

    Other programs can read the file like any NetCDF-4 file; the checksum lies behind its end.

    >>> import tempfile
    >>> record = xr.Dataset({"region_mass": ("layer", [0.25, 0.5])}, attrs={"format": FORMAT})
    >>> path = save_record(record, Path(tempfile.mkdtemp(), "record.nc"))
    >>> load_record(path)["region_mass"].values
    array([0.25, 0.5 ])
    """
    path = Path(path)
    packed = {name: {"zlib": True, "complevel": 1} for name, values in dataset.data_vars.items() if values.ndim}
    content = dataset.to_netcdf(engine="h5netcdf", encoding=packed)  # in memory: HDF5 handles a full disk badly
    with atomic_write(path) as part:
        part.write_bytes(b"".join([content, _seal(content)]))  # HDF5 ignores what follows its own end
    return path


_MARK = b"mmdit-probe record "


def _seal(content: bytes | memoryview) -> bytes:
    """The end of a record: a mark and the SHA-256 of everything before it."""
    return _MARK + hashlib.sha256(content).digest()


def _check_seal(path: Path) -> None:
    """`ValueError` if the checksum is wrong: HDF5 may crash on a damaged file. Files of other programs have no checksum."""
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ValueError(f"record: {path} can't be read ({error.strerror or error})") from error
    size = len(_seal(b""))
    seal = bytes(content[-size:])
    if seal.startswith(_MARK) and seal != _seal(content[:-size]):
        raise ValueError(f"record: {path} is not a readable NetCDF file any more: it is damaged; make it again")


def load_record(path: Path) -> xr.Dataset:
    """Read a record into memory.

    Raises:
        ValueError: the file is missing or damaged, is not a record, or was written by another version; see `save_record`
            for an example.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"record: no file {path}")
    _check_seal(path)
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            dataset = opened.load()
    except Exception as error:  # a damaged file may fail anywhere in HDF5, h5netcdf or xarray
        raise ValueError(f"record: {path} is not a readable NetCDF file ({one_line(str(error), 200)})") from error
    found = dataset.attrs.get("format")
    if not isinstance(found, int | np.integer) or found != FORMAT:
        raise ValueError(
            f"record: {path} has format {found}, this version reads {FORMAT}; make it again with this version"
        )
    return dataset
