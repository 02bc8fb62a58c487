"""From readouts to a self-describing `xarray.Dataset`, and to and from NetCDF files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..attention.joint import REGIONS
from ..attention.layout import Extra, TokenLayout
from ..attention.text_tokens import TextTokens
from ..readouts.base import Field, Fields
from ..readouts.coordinates import COORDINATES
from ..storage.records import FORMAT, versions

CFGBranch = Literal["both", "conditional", "unconditional"]


@dataclass
class CallRecord:
    """What one forward pass of the transformer left: the readouts' fields per layer.

    ``step`` is the sampling step, which may take several calls. ``scheduler_timesteps`` and ``sigmas`` are (batch,), or None where
    the call has no timestep. ``source`` says where tokens stand that are not in the layout's order. ``seen`` counts the
    batch rows that have passed each layer.
    """

    step: int
    layout: TokenLayout
    batch: int
    scheduler_timesteps: np.ndarray | None = None
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


def to_dataset(
    calls: Sequence[CallRecord], layers: Sequence[int], cfg_branch: CFGBranch, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Calls as one dataset: (call, batch, layer, ...) and coordinates.

    ``cfg_branch`` drops the calls that have none of its rows. Tokens are (batch, token), or (call, batch, token) where the
    calls carry different prompts. `ValueError` if nothing was recorded, or if the calls' token layouts or numbers of rows
    differ.
    """
    chosen = [Chosen(call, rows) for call in calls for rows in (_rows(call, cfg_branch),) if len(rows)]
    _check_alike(chosen)
    layout = _shared_layout(chosen[0].call)
    dims: dict[str, tuple[str, ...]] = {}
    for call, _ in chosen:
        for fields in call.fields.values():
            dims.update({name: f.dims for name, f in fields.items()})
    variables = {
        name: (("call", "batch", "layer", *own[1:]), _stack(chosen, layers, name)) for name, own in dims.items()
    }
    used = {dim for own in dims.values() for dim in own}
    coordinates = {name: labels for name, labels in COORDINATES.items() if name in used}
    dataset = xr.Dataset(variables, {**coordinates, **_call_coordinates(chosen, layers), **_tokens(chosen, used)})
    dataset.attrs = {
        "format": FORMAT,
        "grid": list(layout.grid),
        "image_tokens": layout.image,
        "text_tokens": layout.text,
        "token_order": layout.order,
        "extra_tokens": layout.extra,
        "scope": layout.scope,
        "kernels": ", ".join(sorted(set().union(*(call.kernels for call, _ in chosen)))),
        **versions(),
        **attrs,
    }
    return dataset


class Chosen(NamedTuple):
    """A call and those of its batch rows that are kept."""

    call: CallRecord
    rows: np.ndarray


def _check_alike(chosen: Sequence[Chosen]) -> None:
    if not any(call.fields for call, _ in chosen):
        raise ValueError(
            "Probe: nothing was recorded; run the model inside the with block before asking for the dataset"
        )
    kinds = {(call.layout, len(rows)) for call, rows in chosen}
    if len(kinds) > 1:
        shown = "; ".join(f"grid {layout.grid}, {layout.text} text tokens, batch {batch}" for layout, batch in kinds)
        raise ValueError(
            f"Probe: the recorded calls differ in size ({shown}); open the probe once for each size, or ask for one cfg_branch"
        )


def _shared_layout(call: CallRecord) -> TokenLayout:
    """The recorded layers' layout; the forward pass's own where they differ, as in a U-Net."""
    layouts = set(call.layouts.values())
    return layouts.pop() if len(layouts) == 1 else call.layout


def _rows(call: CallRecord, cfg_branch: CFGBranch) -> np.ndarray:
    if cfg_branch == "both":
        return np.arange(call.batch)
    if cfg_branch not in ("conditional", "unconditional"):
        raise ValueError(f"dataset: cfg_branch must be 'both', 'conditional' or 'unconditional', got {cfg_branch!r}")
    if call.text is None:
        raise ValueError(
            "dataset: which batch rows are conditional is not known, because no prompt was seen; use cfg_branch='both'"
        )
    return np.flatnonzero(call.text.conditional == (cfg_branch == "conditional"))


def _stack(chosen: Sequence[Chosen], layers: Sequence[int], name: str) -> np.ndarray:
    """(call, batch, layer, ...); NaN where a call skipped a layer."""
    known = next(f[name] for call, _ in chosen for f in call.fields.values() if name in f).values.shape[1:]
    stacked = np.full((len(chosen), len(chosen[0].rows), len(layers), *known), np.nan, np.float32)
    for i, (call, rows) in enumerate(chosen):
        for j, layer in enumerate(layers):
            if name in call.fields.get(layer, {}):
                values = call.fields[layer][name].values.numpy()
                if values.shape[1:] != known:
                    raise ValueError(
                        f"Probe: {name} of layer {layer} has shape {values.shape[1:]}, other layers have "
                        f"{tuple(known)}; record layers of one size at a time (layers=[...], --layers)"
                    )
                stacked[i, :, j] = values[rows]
    return stacked


def _call_coordinates(chosen: Sequence[Chosen], layers: Sequence[int]) -> dict[str, Any]:
    calls = [call for call, _ in chosen]
    coordinates: dict[str, Any] = {"layer": list(layers), "step": ("call", [call.step for call in calls])}
    if all(call.scheduler_timesteps is not None for call in calls):
        coordinates["scheduler_timestep"] = ("call", [float(call.scheduler_timesteps[0]) for call in calls])  # type: ignore[index]
        coordinates["sigma"] = ("call", [float(call.sigmas[0]) for call in calls])  # type: ignore[index]
    if all(call.text is not None for call in calls):
        halves = [call.text.conditional[rows].astype(bool) for call, rows in chosen]  # type: ignore[union-attr]
        coordinates["conditional"] = _by_call(("batch",), halves)
    return coordinates


def _tokens(chosen: Sequence[Chosen], used: Iterable[str]) -> dict[str, Any]:
    texts = [call.text.rows(rows) for call, rows in chosen if call.text is not None]
    if "token" not in used or len(texts) < len(chosen):
        return {}
    return {
        "token_text": _by_call(("batch", "token"), [text.strings.astype(str) for text in texts]),
        "token_kind": _by_call(("batch", "token"), [text.kinds.astype(str) for text in texts]),
        "token_encoder": ("token", texts[0].encoders.astype(str)),
    }


def _by_call(dims: tuple[str, ...], values: Sequence[np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """A coordinate that all calls share, or else has an axis of calls."""
    if all(np.array_equal(values[0], other) for other in values):
        return dims, values[0]
    return ("call", *dims), np.stack(values)


def uniform_shares(record: xr.Dataset) -> dict[str, float]:
    """Each region's mass if every query attended to all tokens alike, in [0, 1]; NaN where there is no such region."""
    layout = recorded_layout(record)
    return {str(region): layout.uniform(region) for region in REGIONS}


def recorded_layout(record: xr.Dataset) -> TokenLayout:
    """Grid, text and other tokens of a record, from its attributes."""
    extras = (Extra("others", int(record.attrs["extra_tokens"]), "last"),)
    grid = tuple(int(n) for n in record.attrs["grid"])
    return TokenLayout(grid, int(record.attrs["text_tokens"]), extras=extras, scope=record.attrs["scope"])
