"""From the fields of single calls and layers to one field each, (call, batch, layer, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..readouts.fields import Field, Fields
from .calls import TransformerCall

CFGBranch = Literal["both", "conditional", "unconditional"]
"""Which branch of classifier-free guidance: the prompt ("conditional"), the negative prompt, or both."""


class Chosen(NamedTuple):
    """A call, and which of its batch rows are wanted."""

    call: TransformerCall
    rows: np.ndarray


def choose(calls: Sequence[TransformerCall], cfg_branch: CFGBranch, words: str) -> list[Chosen]:
    """The calls that have batch rows of a branch, with these rows; calls that ran to their end though all layers were skipped.

    ``words`` says why it may be unknown which they are. `ValueError` if it is, if nothing was recorded, or if calls
    differ in token layout or in number of rows.
    """
    recorded = [(call, _rows(call, cfg_branch, words)) for call in calls if call.fields or call.complete]
    chosen = [Chosen(call, rows) for call, rows in recorded if len(rows)]
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
    return chosen


def _rows(call: TransformerCall, cfg_branch: CFGBranch, words: str) -> np.ndarray:
    if cfg_branch not in get_args(CFGBranch):
        raise ValueError(f"dataset: cfg_branch must be 'both', 'conditional' or 'unconditional', got {cfg_branch!r}")
    if cfg_branch == "both":
        return np.arange(call.batch)
    if call.branches is None:
        raise ValueError(
            f"dataset: which batch rows are conditional is unknown; use cfg_branch='both' (words are {words})"
        )
    return np.flatnonzero(call.branches == cfg_branch)


def skipped(calls: Sequence[TransformerCall], layers: Sequence[int]) -> str:
    """Which layers made no attention call at which steps, and what answered in their place; empty if all did."""
    found: dict[tuple[int, str], list[int]] = {}
    for call in calls:
        for layer in layers:
            if layer not in call.fields and (call.complete or layer in call.silent):
                steps = found.setdefault((layer, call.silent.get(layer, "its block did not run")), [])
                steps += [call.step] if call.step not in steps else []
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for (layer, by), steps in found.items():
        alike.setdefault((by, tuple(steps)), []).append(layer)
    return "; ".join(
        f"layer{'s' * (len(some) > 1)} {_listed(some)} at step{'s' * (len(steps) > 1)} {_listed(steps)} ({by})"
        for (by, steps), some in alike.items()
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def stack(chosen: Sequence[Chosen], layers: Sequence[int]) -> Fields:
    """All fields with the axes (call, batch, layer, ...)."""
    known = {name: field for call, _ in chosen for fields in call.fields.values() for name, field in fields.items()}
    return {name: _stacked(name, field, chosen, layers) for name, field in known.items()}


def _stacked(name: str, like: Field, chosen: Sequence[Chosen], layers: Sequence[int]) -> Field:
    """One field of all calls; NaN where a call skipped a layer."""
    size = like.values.shape[1:]
    values = torch.full((len(chosen), len(chosen[0].rows), len(layers), *size), torch.nan, dtype=torch.float32)
    for i, (call, rows) in enumerate(chosen):
        for j, layer in enumerate(layers):
            if name in call.fields.get(layer, {}):
                values[i, :, j] = _checked(name, layer, call.fields[layer][name].values, size)[torch.from_numpy(rows)]
    return Field(("call", "batch", "layer", *like.dims[1:]), values, like.long_name, like.units, like.axes)


def _checked(name: str, layer: int, values: Tensor, size: torch.Size) -> Tensor:
    if values.shape[1:] != size:
        raise ValueError(
            f"Probe: {name} of layer {layer} has shape {tuple(values.shape[1:])}, other layers have {tuple(size)}; "
            f"record layers of one size at a time (layers=[...], --layers)"
        )
    return values


def why_nothing(calls: Sequence[TransformerCall], elsewhere: bool) -> str:
    """Why none of the wanted calls has a record; ``elsewhere`` says whether the transformer ran in another thread."""
    silent = sorted({by for call in calls for by in call.silent.values()})
    if silent:
        return f"{', '.join(silent)} answered in the place of every recorded layer's attention"
    if elsewhere:
        return "the transformer ran in another thread; open the probe in the thread that calls it"
    return "run the model inside the with block before asking for the dataset"
