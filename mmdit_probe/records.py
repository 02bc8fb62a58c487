"""From readouts to a self-describing `xarray.Dataset`, and to and from NetCDF files."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .files import whole
from .layout import TokenLayout
from .readouts import COORDINATES, Field, Fields
from .texts import one_line
from .tokens import TextTokens

Half = Literal["both", "conditional", "unconditional"]
FORMAT = 1
"""Version of the record's names; a reader refuses another one."""


@dataclass
class CallRecord:
    """What one forward pass of the transformer left: the readouts' fields per layer.

    ``timesteps`` and ``sigmas`` are (batch,), or None where the call has no timestep. ``source`` says where
    tokens stand that are not in the layout's order. ``seen`` counts the batch rows that have passed each layer.
    """

    step: int
    layout: TokenLayout
    batch: int
    timesteps: np.ndarray | None = None
    sigmas: np.ndarray | None = None
    text: TextTokens | None = None
    fields: dict[int, Fields] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    layouts: dict[int, TokenLayout] = field(default_factory=dict)
    source: Tensor | None = None
    seen: dict[int, int] = field(default_factory=dict)

    def next_rows(self, layer: int, count: int) -> slice:
        """The batch rows of a layer's next attention call: all, or those after the last call's."""
        start = 0 if count == self.batch else self.seen.get(layer, 0)
        return slice(start, start + count)

    def add(self, layer: int, fields: Fields, layout: TokenLayout, kernel: str) -> None:
        """Keep a layer's fields; those of further batch rows come behind."""
        self.layouts[layer] = layout
        self.kernels.add(kernel)
        known = self.fields.get(layer, {})
        complete = not known or len(next(iter(known.values())).values) == self.batch
        self.fields[layer] = fields if complete else _joined(known, fields)


def _joined(known: Fields, more: Fields) -> Fields:
    return {name: Field(f.dims, torch.cat([known[name].values, f.values])) for name, f in more.items()}


def to_dataset(calls: Sequence[CallRecord], layers: Sequence[int], half: Half, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Calls as one dataset: (call, batch, layer, ...) and coordinates.

    `ValueError` if nothing was recorded, or if the calls' token layouts or batch sizes differ.
    """
    _check_alike(calls)
    first = calls[0]
    rows = _rows(first, half)
    dims: dict[str, tuple[str, ...]] = {}
    for call in calls:
        for fields in call.fields.values():
            dims.update({name: f.dims for name, f in fields.items()})
    variables = {
        name: (("call", "batch", "layer", *own[1:]), _stack(calls, layers, name)[:, rows]) for name, own in dims.items()
    }
    used = {dim for own in dims.values() for dim in own}
    coordinates = {name: labels for name, labels in COORDINATES.items() if name in used}
    dataset = xr.Dataset(
        variables, {**coordinates, **_call_coordinates(calls, layers, rows), **_tokens(first, rows, used)}
    )
    layout = _shared_layout(first)
    dataset.attrs = {
        "format": FORMAT,
        "grid": list(layout.grid),
        "image_tokens": layout.image,
        "text_tokens": layout.text,
        "token_order": layout.order,
        "extra_tokens": layout.extra,
        "scope": layout.scope,
        "kernels": ", ".join(sorted(set().union(*(call.kernels for call in calls)))),
        **versions(),
        **attrs,
    }
    return dataset


def _check_alike(calls: Sequence[CallRecord]) -> None:
    if not calls or not any(call.fields for call in calls):
        raise ValueError(
            "Probe: nothing was recorded; run the model inside the with block before asking for the dataset"
        )
    kinds = {(call.layout, call.batch) for call in calls}
    if len(kinds) > 1:
        shown = "; ".join(f"grid {layout.grid}, {layout.text} text tokens, batch {batch}" for layout, batch in kinds)
        raise ValueError(f"Probe: the recorded calls differ in size ({shown}); open the probe once for each size")


def _shared_layout(call: CallRecord) -> TokenLayout:
    """The recorded layers' layout; the forward pass's own where they differ, as in a U-Net."""
    layouts = set(call.layouts.values())
    return layouts.pop() if len(layouts) == 1 else call.layout


def _rows(call: CallRecord, half: Half) -> np.ndarray:
    if half == "both":
        return np.arange(call.batch)
    if half not in ("conditional", "unconditional"):
        raise ValueError(f"dataset: half must be 'both', 'conditional' or 'unconditional', got {half!r}")
    if call.text is None:
        raise ValueError(
            "dataset: which batch rows are conditional is not known, because no prompt was seen; use half='both'"
        )
    return np.flatnonzero(call.text.conditional == (half == "conditional"))


def _stack(calls: Sequence[CallRecord], layers: Sequence[int], name: str) -> np.ndarray:
    """(call, batch, layer, ...); NaN where a call skipped a layer."""
    known = next(f[name] for call in calls for f in call.fields.values() if name in f).values
    stacked = np.full((len(calls), known.shape[0], len(layers), *known.shape[1:]), np.nan, np.float32)
    for i, call in enumerate(calls):
        for j, layer in enumerate(layers):
            if name in call.fields.get(layer, {}):
                values = call.fields[layer][name].values.numpy()
                if values.shape != known.shape:
                    raise ValueError(
                        f"Probe: {name} of layer {layer} has shape {values.shape[1:]}, other layers have "
                        f"{tuple(known.shape[1:])}; record layers of one size at a time with Probe(layers=[...])"
                    )
                stacked[i, :, j] = values
    return stacked


def _call_coordinates(calls: Sequence[CallRecord], layers: Sequence[int], rows: np.ndarray) -> dict[str, Any]:
    coordinates: dict[str, Any] = {"layer": list(layers), "step": ("call", [call.step for call in calls])}
    if all(call.timesteps is not None for call in calls):
        coordinates["timestep"] = ("call", [float(call.timesteps[0]) for call in calls])  # type: ignore[index]
        coordinates["sigma"] = ("call", [float(call.sigmas[0]) for call in calls])  # type: ignore[index]
    text = calls[0].text
    if text is not None:
        coordinates["conditional"] = ("batch", text.conditional[rows].astype(bool))
    return coordinates


def _tokens(call: CallRecord, rows: np.ndarray, used: Iterable[str]) -> dict[str, Any]:
    if "token" not in used or call.text is None:
        return {}
    return {
        "token_text": (("batch", "token"), call.text.strings[rows].astype(str)),
        "token_kind": (("batch", "token"), call.text.kinds[rows].astype(str)),
        "token_encoder": ("token", call.text.encoders.astype(str)),
    }


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
    with whole(path) as part:
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
