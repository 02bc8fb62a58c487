"""Two records side by side: two prompts, two models, or one model with and without a fine-tune."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

NAMED = ("model", "transformer", "source", "prompt", "seed", "steps", "edits", "grid", "text_tokens", "direction")
"""What a record says about itself that may explain a difference."""
_AVERAGED = ("prompt", "scene", "batch", "head")
_GRID = ("frame", "row", "col")


@dataclass(frozen=True)
class Measure:
    """A variable of records that can be compared: its unit, and the axis whose labels are its parts."""

    unit: str
    part: str = ""


MEASURES = {
    "region_mass": Measure("share of attention", "region"),
    "value_norm": Measure("mean L2 norm", "stream"),
    "i2t_entropy": Measure("nats"),
    "i2t_effective_tokens": Measure("text tokens"),
    "i2t_kind_mass": Measure("share of attention", "kind"),
    "pca_variance": Measure("share of variance", "feature"),
    "text_pca_variance": Measure("share of variance", "feature"),
    "position_r2": Measure("adjusted R^2", "feature"),
    "class_r2": Measure("adjusted R^2", "feature"),
    "word_map": Measure("mean probability", "word"),
}


def compare(a: xr.Dataset, b: xr.Dataset) -> pd.DataFrame:
    """One row per measure, timestep, layer and part that both records hold.

    ``a`` and ``b`` are means over prompts, scenes, batch rows and heads; ``difference`` is b - a.

    Raises:
        ValueError: the records have other timesteps or layers, or no measure in common.
    """
    shared = [name for name in MEASURES if name in a and name in b]
    if not shared:
        known = ["; ".join(sorted(str(name) for name in record.data_vars)) or "nothing" for record in (a, b)]
        raise ValueError(f"diff: the records have no measure in common: A holds {known[0]}, B holds {known[1]}")
    step = _step_axis(a, b)
    for axis, name in ((step, "timesteps" if step == "timestep" else "calls"), ("layer", "layers")):
        _check_same(a, b, axis, name)
    frames = [_compare_one(a, b, name, step) for name in shared]
    table = pd.concat([frame for frame in frames if len(frame)], ignore_index=True) if any(map(len, frames)) else None
    if table is None:
        raise ValueError("diff: the records hold the same measures, but none has a number in both")
    return table


def _step_axis(a: xr.Dataset, b: xr.Dataset) -> str:
    for axis in ("timestep", "call"):
        if axis in a.dims and axis in b.dims:
            return axis
    raise ValueError("diff: one record is by timestep, the other by call; compare two made by the same command")


def _labels(record: xr.Dataset, axis: str) -> list[float]:
    return list(record[axis].values) if axis in record.coords else list(range(record.sizes[axis]))


def _check_same(a: xr.Dataset, b: xr.Dataset, axis: str, name: str) -> None:
    mine, other = _labels(a, axis), _labels(b, axis)
    if sorted(mine) != sorted(other):
        shown = [", ".join(str(label) for label in labels) for labels in (mine, other)]
        raise ValueError(f"diff: A has {name} {shown[0]}; B has {shown[1]}; measure both at the same {name}")


def _compare_one(a: xr.Dataset, b: xr.Dataset, name: str, step: str) -> pd.DataFrame:
    part = MEASURES[name].part
    sides = [_reduced(record[name], step, part) for record in (a, b)]
    joined = pd.concat(sides, axis=1, keys=["a", "b"], join="inner").dropna().reset_index()
    joined.insert(0, "measure", name)
    joined["part"] = joined[part].astype(str) if part else ""
    joined["difference"] = joined["b"] - joined["a"]
    return joined[["measure", step, "layer", "part", "a", "b", "difference"]]


def _reduced(values: xr.DataArray, step: str, part: str) -> pd.Series:
    """Mean over everything but step, layer and part; the components of a variance are summed."""
    values = values.sum("component") if "component" in values.dims else values
    mean = values.mean([dim for dim in (*_AVERAGED, *_GRID) if dim in values.dims])
    kept = [step, "layer", *([part] if part else [])]
    coords = {dim: values[dim].values if dim in values.coords else np.arange(values.sizes[dim]) for dim in kept}
    return xr.DataArray(mean.transpose(*kept).values, coords=coords, dims=kept).to_series()


def what_differs(a: xr.Dataset, b: xr.Dataset) -> list[str]:
    """A line for each thing that the records say differently about themselves."""
    lines = []
    for name in NAMED:
        mine, other = (_said(record, name) for record in (a, b))
        if mine != other:
            lines.append(f"{name}: {mine} in A, {other} in B")
    return lines


def _said(record: xr.Dataset, name: str) -> str:
    if name == "prompt" and "prompt" in record.coords:
        prompts = [str(prompt) for prompt in np.atleast_1d(record["prompt"].values)]
        return repr(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts, the first {prompts[0]!r}"
    value = record.attrs.get(name, "not said")
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def summary(table: pd.DataFrame) -> list[str]:
    """A line per measure: where the two differ most."""
    lines = []
    step = "timestep" if "timestep" in table else "call"
    for name, rows in table.groupby("measure", sort=False):
        most = rows.loc[rows["difference"].abs().idxmax()]
        if most["difference"] == 0:
            lines.append(f"{name}: no difference anywhere.")
            continue
        part = f" ({most['part']})" if most["part"] else ""
        where = f"layer {most['layer']}, {'t =' if step == 'timestep' else 'call'} {most[step]}"
        lines.append(
            f"{name}{part} differs most in {where}: {most['a']:.4g} in A, {most['b']:.4g} in B ({most['difference']:+.3g})."
        )
    return lines
