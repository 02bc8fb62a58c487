"""What a page holds beside I2T: T2I, T2T, I2I, the reference images' maps, and the keys that take most attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..probe.dataset import recorded_layout
from ..readouts.pair_maps import cell_side
from ..studies.sinks import name_keys

MOST_CELLS = 1024
"""Most positions of an I2I map, or of one on a reference: those of larger grids are means over square cells."""
TOP = 5
"""Keys that are listed for each layer and timestep."""


@dataclass(frozen=True, eq=False)
class Matrices:
    """Probabilities of rows of queries on rows of keys, means over heads.

    Attributes:
        values: (timestep, layer, query, key) in [0, 1].
        grid: the keys as (rows, cols) of positions; None if they are tokens.
        cell: the side of the square cells of positions that a key is the mean of; 1 if each position is its own.
        queries: the queries' positions (row, col), None if they are all tokens.
    """

    values: np.ndarray
    grid: tuple[int, int] | None = None
    cell: int = 1
    queries: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Sink:
    """A key, and what it takes of the image's attention.

    Attributes:
        stream: "image", "text" or "other".
        place: its number among the image's positions (of the grid without frames), the text's or the others.
        kind: what it is, see `studies.sinks`.
        name: its place in words, or its text.
        mass: the mean probability that the image queries give to it, in [0, 1].
        times: how many times uniform attention that is.
    """

    stream: str
    place: int
    kind: str
    name: str
    mass: float
    times: float


@dataclass(frozen=True, eq=False)
class Regions:
    """What a page holds beside I2T.

    Attributes:
        matrices: by name: "t2i" (text position, image position), "t2t" (text position, text position), "i2i"
            (evenly spaced image position, image cell), and of each reference image, numbered from 1, "i2r-1" and "r2i-1".
        references: the grid of each reference image that there are maps of, by number.
        sinks: of each timestep and layer the keys that take most attention, the largest first; None if that was not read.
        sampled: sinks are means over evenly spaced image queries, not over all.
        frames: the number of frames that were averaged; 1 for images.
    """

    matrices: dict[str, Matrices]
    references: dict[int, tuple[int, int]]
    sinks: list[list[list[Sink]]] | None = None
    sampled: bool = False
    frames: int = 1

    @classmethod
    def none(cls) -> Regions:
        """Of a record that holds I2T maps alone."""
        return cls({}, {})


def regions_of(record: xr.Dataset, layers: Sequence[int]) -> Regions:
    """What a record (timestep, layer or map_layer, ...) holds of ``layers`` beside I2T.

    ``t2i``, ``t2t``, ``i2i`` and the maps of references as `PairMaps` names them, and the masses of `KeyMass`; means over heads and
    frames. What is not there, or all NaN, is left out.
    """
    found = {"t2i": _of_tokens(record, "t2i", ("row", "col")), "t2t": _of_tokens(record, "t2t", ("to_token",))}
    found["i2i"] = _of_places(record, "i2i", "query", ("row", "col"))
    references = {}
    for number in range(1, 1 + sum(str(name).startswith("i2r_pair_") for name in record.data_vars)):
        on, asks = (f"reference_{number}_row", f"reference_{number}_col"), f"reference_{number}_query"
        found[f"i2r-{number}"] = _of_places(record, f"i2r_pair_{number}", "query", on)
        found[f"r2i-{number}"] = _of_places(record, f"r2i_pair_{number}", asks, ("row", "col"))
        references[number] = (record.sizes[on[0]], record.sizes[on[1]])
    matrices = {
        name: Matrices(maps.sel(layer=list(layers)).values, grid, cell, queries)
        for name, (maps, grid, cell, queries) in ((name, made) for name, made in found.items() if made is not None)
    }
    grid = [int(size) for size in np.atleast_1d(record.attrs["grid"])]
    return Regions(
        matrices, references, _sinks(record, layers), "text_key_mass_error" in record, grid[-3] if len(grid) > 2 else 1
    )


_Found = tuple[xr.DataArray, tuple[int, int] | None, int, tuple[tuple[int, int], ...] | None]


def _of_tokens(record: xr.Dataset, name: str, keys: tuple[str, ...]) -> _Found | None:
    """A region whose queries are the text positions."""
    if name not in record or not np.isfinite(record[name].values).any():
        return None
    maps = _mean(record[name]).transpose("timestep", "layer", "token", *keys)
    grid = (maps.sizes["row"], maps.sizes["col"]) if len(keys) > 1 else None
    return maps if len(keys) == 1 else maps.stack(key=keys, create_index=False), grid, 1, None


def _of_places(record: xr.Dataset, name: str, query: str, keys: tuple[str, str]) -> _Found | None:
    """A region whose queries are some positions of a grid, and whose keys those of a grid, joined to at most `MOST_CELLS`."""
    if name not in record or not np.isfinite(record[name].values).any():
        return None
    labels = [str(label).split(",") for label in record[query].values]
    if not all(part.isdigit() for label in labels for part in label):
        return None  # the center, or a mask: no positions to press
    maps = _mean(record[name]).transpose("timestep", "layer", query, *keys)
    grid = (maps.sizes[keys[0]], maps.sizes[keys[1]])
    cell = cell_side(grid, MOST_CELLS)
    joined = maps.coarsen(dict.fromkeys(keys, cell), boundary="pad").mean() if cell > 1 else maps
    queries = tuple((int(label[-2]), int(label[-1])) for label in labels)
    return joined.stack(key=keys, create_index=False), grid, cell, queries


def _mean(maps: xr.DataArray) -> xr.DataArray:
    """The mean over heads and frames, with a ``layer`` axis."""
    over = [dim for dim in maps.dims if str(dim) in ("head", "head_group") or str(dim).endswith("frame")]
    maps = maps.mean(over) if over else maps
    return maps.rename(map_layer="layer") if "map_layer" in maps.dims else maps


def _sinks(record: xr.Dataset, layers: Sequence[int]) -> list[list[list[Sink]]] | None:
    """The keys that take most attention, by timestep and layer."""
    if "text_key_mass" not in record:
        return None
    grid: list[str] = [dim for dim in ("frame", "row", "col") if dim in record["image_key_mass"].dims]
    parts: list[tuple[str, str, list[str]]] = [
        ("image", "image_key_mass", grid),
        ("text", "text_key_mass", ["token"]),
        ("other", "extra_key_mass", ["extra"]),
    ]
    masses: list[np.ndarray] = []
    streams: list[tuple[str, int]] = []
    for stream, name, dims in parts:
        if name in record:
            mass = _heads_mean(record[name]).sel(layer=list(layers)).transpose("timestep", "layer", *dims).values
            masses.append(mass.reshape(*mass.shape[:2], -1))
            streams += [(stream, place) for place in range(masses[-1].shape[-1])]
    together, (kinds, names) = np.concatenate(masses, -1), name_keys(record)
    known, keys = int(np.isfinite(together).any((0, 1)).sum()), recorded_layout(record).keys
    frame = record.sizes["row"] * record.sizes["col"] if grid else 1

    def sink(key: int, mass: float) -> Sink:
        stream, place = streams[key]
        place = place % frame if stream == "image" else place
        return Sink(stream, place, str(kinds[key]), str(names[key]), mass, mass * keys)

    def strongest(mass: np.ndarray) -> list[Sink]:
        order = np.argsort(-np.nan_to_num(mass, nan=-1), kind="stable")[: min(TOP, known)]
        return [sink(int(key), float(mass[key])) for key in order if np.isfinite(mass[key])]

    return [[strongest(mass) for mass in row] for row in together]


def _heads_mean(maps: xr.DataArray) -> xr.DataArray:
    """The mean over heads, with a ``layer`` axis."""
    maps = maps.mean("head") if "head" in maps.dims else maps
    return maps.rename(map_layer="layer") if "map_layer" in maps.dims else maps
