"""Records: recorded calls as a self-describing `xarray.Dataset`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..attention.layout import REFERENCE, Extra, TokenLayout
from ..pipelines.encoded import CONDITIONAL, PERTURBED
from ..readouts.fields import Field
from ..storage.records import FORMAT, versions
from .calls import TransformerCall
from .coordinates import coordinate, described
from .stacking import Chosen, stack

Coordinates = dict[str, tuple[Any, Any, dict[str, str]]]


def to_dataset(chosen: Sequence[Chosen], layers: Sequence[int], attrs: Mapping[str, Any]) -> xr.Dataset:
    """Calls as one dataset, (call, batch, layer, ...), with coordinates.

    Tokens are (batch, token), or (call, batch, token) if the calls carry different prompts. Every variable and
    coordinate has the attributes ``long_name`` and ``units``.
    """
    fields = stack(chosen, layers)
    variables = {
        name: (field.dims, field.values.numpy(), described(field.long_name or name.replace("_", " "), field.units))
        for name, field in fields.items()
    }
    coordinates = {**_axes(fields.values()), **_call_coordinates(chosen, layers), **_tokens(chosen)}
    dataset = xr.Dataset(variables, coordinates)
    layout = _shared_layout(next(call for call, _ in chosen if call.fields))
    dataset.attrs = {
        "format": FORMAT,
        "grid": list(layout.grid),
        "image_tokens": layout.image,
        "text_tokens": layout.text,
        "token_order": layout.order,
        "extra_tokens": layout.extra,
        **_references(layout),
        "scope": layout.scope,
        "kernels": ", ".join(sorted(set().union(*(call.kernels for call, _ in chosen)))),
        **versions(),
        **attrs,
    }
    return dataset


def _shared_layout(call: TransformerCall) -> TokenLayout:
    """The recorded layers' layout, or the forward pass's own if layers differ, as in a U-Net."""
    layouts = set(call.layouts.values())
    return layouts.pop() if len(layouts) == 1 else call.layout


_UNKNOWN_GRID = "tokens without a known grid"


def _references(layout: TokenLayout) -> dict[str, Any]:
    """Attributes that say which reference images there are; none if there are no references."""
    grids = [
        f"{extra.tokens} {_UNKNOWN_GRID}" if extra.grid is None else " x ".join(map(str, extra.grid))
        for extra in layout.references
    ]
    return {"reference_tokens": layout.reference, "reference_grids": "; ".join(grids)} if grids else {}


def _recorded_references(record: xr.Dataset) -> list[Extra]:
    found = []
    for text in filter(None, record.attrs.get("reference_grids", "").split("; ")):
        if text.endswith(_UNKNOWN_GRID):
            found.append(Extra(REFERENCE, int(text.split()[0]), "last"))
        else:
            grid = tuple(int(size) for size in text.split(" x "))
            found.append(Extra(REFERENCE, math.prod(grid), "last", grid))
    return found


def _axes(fields: Iterable[Field]) -> Coordinates:
    axes = {axis.name: axis for field in fields for axis in field.axes}
    return {name: (name, list(axis.labels), described(axis.long_name)) for name, axis in axes.items()}


def _call_coordinates(chosen: Sequence[Chosen], layers: Sequence[int]) -> Coordinates:
    times = [call.time for call, _ in chosen]
    branches = [call.branches[rows].astype(str) for call, rows in chosen if call.branches is not None]
    by_call: dict[str, list[Any]] = {
        "step": [time.step for time in times],
        "timestep": [time.timestep for time in times],
        "sigma": [None if time.sigmas is None else float(time.sigmas[0]) for time in times],
        "scheduler_timestep": [time.scheduler_timestep for time in times],
    }
    coordinates = {"layer": coordinate("layer", "layer", list(layers))}
    coordinates |= {name: coordinate(name, "call", values) for name, values in by_call.items() if None not in values}
    if len(branches) == len(chosen):
        conditional = [each == CONDITIONAL for each in branches]
        coordinates["conditional"] = _shared("conditional", ("batch",), conditional)
        if any((each == PERTURBED).any() for each in branches):
            coordinates["branch"] = _shared("branch", ("batch",), branches)
    return coordinates


def _tokens(chosen: Sequence[Chosen]) -> Coordinates:
    """The prompt's tokens, also in records without numbers for each of them."""
    texts = [call.text.rows(rows) for call, rows in chosen if call.text is not None]
    if len(texts) < len(chosen):
        return {}
    return {
        "token_text": _shared("token_text", ("batch", "token"), [text.labels.astype(str) for text in texts]),
        "token_kind": _shared("token_kind", ("batch", "token"), [text.kinds.astype(str) for text in texts]),
        "token_encoder": coordinate("token_encoder", "token", texts[0].encoders.astype(str)),
    }


def _shared(name: str, dims: tuple[str, ...], values: Sequence[np.ndarray]) -> tuple[Any, Any, dict[str, str]]:
    """The coordinate without a ``call`` axis if all calls agree, else with one."""
    if all(np.array_equal(values[0], other) for other in values):
        return coordinate(name, dims, values[0])
    return coordinate(name, ("call", *dims), np.stack(values))


def uniform_shares(record: xr.Dataset) -> dict[str, float]:
    """Each region's mass if every query attended to all keys alike, in [0, 1]; NaN if the model has no such region."""
    layout = recorded_layout(record)
    return {str(region): layout.uniform(region) for region in layout.listed_regions}


def recorded_layout(record: xr.Dataset) -> TokenLayout:
    """A record's grid, its reference images, and its numbers of text and extra tokens, from its attributes."""
    extras = (Extra("others", int(record.attrs["extra_tokens"]), "last"), *_recorded_references(record))
    grid = tuple(int(n) for n in record.attrs["grid"])
    return TokenLayout(grid, int(record.attrs["text_tokens"]), extras=extras, scope=record.attrs["scope"])
