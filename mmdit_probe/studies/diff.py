"""Two records side by side: two prompts, two models, or one model with and without a fine-tune."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ..metrics.inference import FEWEST, Interval, mean_interval, outside_chance, two_sided_picked_p
from ..metrics.verdicts import Form, counted, few, in_words

NAMED = ("model", "transformer", "source", "prompt", "seed", "steps", "edits", "grid", "text_tokens", "direction")
"""What a record says about itself that may explain a difference."""
_UNITS = ("prompt", "scene")
_AVERAGED = (*_UNITS, "batch", "head")
_GRID = ("frame", "row", "col")


@dataclass(frozen=True)
class Measure:
    """A variable of records that can be compared: its name in words, its unit, and the axis whose labels are its parts."""

    name: str
    unit: str
    part: str = ""


MEASURES = {
    "region_mass": Measure("attention by region", "share of attention", "region"),
    "value_norm": Measure("value norm", "mean L2 norm", "stream"),
    "i2t_entropy": Measure("entropy of I2T", "nats"),
    "i2t_effective_tokens": Measure("text tokens looked at", "text tokens"),
    "i2t_kind_mass": Measure("I2T by kind of token", "share of attention", "kind"),
    "pca_variance": Measure("3 components, image tokens", "share of variance", "feature"),
    "text_pca_variance": Measure("3 components, text tokens", "share of variance", "feature"),
    "position_r2": Measure("R² from position", "adjusted R²", "feature"),
    "class_r2": Measure("R² from the class", "adjusted R²", "feature"),
    "word_map": Measure("attention to the word", "mean probability", "word"),
}


def compare(a: xr.Dataset, b: xr.Dataset) -> pd.DataFrame:
    """One row per measure, timestep, layer and part that both records hold.

    ``a`` and ``b`` are means over prompts, scenes, batch rows and heads; ``difference`` is b - a; ``n_a`` and ``n_b`` are
    the numbers of prompts or scenes. If both records have the same ones, at least 5, ``low`` and ``high`` are the 95%
    interval of the difference over them, and ``p`` the chance of such a difference without an effect, the picking of the
    largest among all rows of the measure included; otherwise they are NaN.

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
    keys = [step, "layer", *([part] if part else [])]
    sides = [_by_unit(record[name], keys) for record in (a, b)]
    means = [side.mean(axis=1) for side in sides]
    joined = pd.concat(means, axis=1, keys=["a", "b"], join="inner").dropna()
    joined["difference"] = joined["b"] - joined["a"]
    joined["n_a"], joined["n_b"] = (side.shape[1] for side in sides)
    paired = sides[0].columns.equals(sides[1].columns) and sides[0].shape[1] > 1
    joined = joined.join(_inference(*(side.loc[joined.index] for side in sides)) if paired else _no_inference(joined))
    joined = joined.reset_index()
    joined.insert(0, "measure", name)
    joined["part"] = joined[part].astype(str) if part else ""
    return joined[["measure", step, "layer", "part", "a", "b", "difference", "n_a", "n_b", "low", "high", "p"]]


def _inference(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Intervals of b - a (rows by units), and p-values, the largest of all rows and of both signs having been picked."""
    differences = (b - a).to_numpy()
    p = two_sided_picked_p(differences)
    found = [mean_interval(row) for row in differences]
    bounds = {"low": [one.low for one in found], "high": [one.high for one in found]}
    return pd.DataFrame({**bounds, "p": p}, index=a.index)


def _no_inference(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(np.nan, index=rows.index, columns=["low", "high", "p"])


def _by_unit(values: xr.DataArray, keys: list[str]) -> pd.DataFrame:
    """A row for each step, layer and part, a column for each prompt or scene; means over everything else.

    The components of a variance are summed.
    """
    values = values.sum("component") if "component" in values.dims else values
    unit = next((dim for dim in _UNITS if dim in values.dims), None)
    over = [dim for dim in (*_AVERAGED, *_GRID) if dim in values.dims and dim != unit]
    mean = values.mean(over)
    mean = mean.expand_dims("alone") if unit is None else mean
    mean = mean.transpose(*keys, unit or "alone")
    labels = [list(mean[dim].values) if dim in mean.coords else list(range(mean.sizes[dim])) for dim in keys]
    index = pd.MultiIndex.from_product(labels, names=keys)
    return pd.DataFrame(mean.values.reshape(len(index), -1), index=index, columns=_unit_labels(mean, unit))


def _unit_labels(values: xr.DataArray, unit: str | None) -> list[str]:
    """What tells a record's prompts or scenes from another's; numbers if it does not say."""
    if unit is None or unit not in values.coords:
        return [f"unnamed {number}" for number in range(values.sizes[unit or "alone"])]
    return [str(label) for label in values[unit].values]


def what_differs(a: xr.Dataset, b: xr.Dataset) -> list[str]:
    """A line for each thing that the records say differently about themselves."""
    lines = []
    for name in NAMED:
        mine, other = (_said(record, name) for record in (a, b))
        if mine != other:
            lines.append(f"{name}: {mine} in A, {other} in B")
    return lines


def described(record: xr.Dataset, name: str) -> str:
    """A record by its model and prompt, for the line under a figure: "A: model tiny-sd3, prompt 'sand'"."""
    model = str(record.attrs.get("model", "")).split(",")[0]
    known = [f"model {model}"] if model else []
    prompt = _said(record, "prompt")
    known += [] if prompt == "not said" else [f"prompt {prompt}"]
    return f"{name}: {', '.join(known) or 'not said of what'}"


def _said(record: xr.Dataset, name: str) -> str:
    if name == "prompt" and "prompt" in record.coords:
        prompts = [str(prompt) for prompt in np.atleast_1d(record["prompt"].values)]
        return repr(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts, the first {prompts[0]!r}"
    value = record.attrs.get(name, "not said")
    return str(value.tolist() if isinstance(value, np.ndarray) else value)


def summary(table: pd.DataFrame) -> list[str]:
    """A line per measure: where the two differ most, and whether that is outside chance."""
    lines = []
    step = "timestep" if "timestep" in table else "call"
    for name, rows in table.groupby("measure", sort=False):
        measure = MEASURES[str(name)]
        most = rows.loc[rows["difference"].abs().idxmax()]
        if most["difference"] == 0:
            lines.append(f"{measure.name}: no difference anywhere.")
            continue
        part = f" ({most['part']})" if most["part"] else ""
        where = f"layer {most['layer']}, {'t =' if step == 'timestep' else 'call'} {most[step]}"
        lines.append(
            f"{measure.name}{part} differs most of {len(rows)} numbers in {where}: {most['a']:.4g} in A, {most['b']:.4g} "
            f"in B ({most['difference']:+.3g}), {_sure(most)}."
        )
    return lines


def _sure(row: pd.Series) -> str:
    """Over what the numbers are averages, and what the difference is worth."""
    a, b = int(row["n_a"]), int(row["n_b"])
    if np.isnan(row["low"]) and a == b and a < FEWEST:
        return f"means over heads and the grid, {few(a, 'prompt')}, no verdict"
    if np.isnan(row["low"]):
        return (
            f"means over heads and {counted(a, 'prompt')} in A, {counted(b, 'prompt')} in B, which are not the same: "
            f"no verdict"
        )
    sure = "outside chance" if outside_chance(row["p"], a) else "within chance"
    interval = in_words(Interval(row["difference"], row["low"], row["high"], a), Form(3, sign=True), "prompt")
    return f"means over heads and prompts {interval}: as the largest of all, {sure}"
