"""Attention sinks: the single keys that take the most of the image's attention, and what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import SinksConfig
from ..families import Pipeline
from ..metrics.inference import mean_interval
from ..metrics.verdicts import Form, in_words
from ..pipelines.layers import chosen_layers
from ..readouts.key_mass import KeyMass
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .recording import check_sampling, record_generated, run_prompts

CORNER, FIRST_FRAME, IMAGE, TEXT = "corner", "first frame", "image", "text"
COLUMNS = (
    "prompt",
    "timestep",
    "sigma",
    "layer",
    "head",
    "rank",
    "kind",
    "key",
    "mass",
    "error",
    "times_uniform",
    "keys",
)


def measure_sinks(pipe: Pipeline, prompt: str, config: SinksConfig) -> xr.Dataset:
    """One prompt: the ``config.top`` keys with the most mass, largest first, of each timestep, layer and head.

    ``sink_mass`` (timestep, layer, head, rank) is the mean probability over image queries, in [0, 1], of all keys of the
    softmax; ``sink_error`` its standard error over the queries that were read (0 if all were); ``sink_kind`` and ``sink_key``
    say what the key is: start, word, end, padding, template, absent, text (kind unknown), corner, first frame, image, or the
    layout's own name of tokens that are neither, such as register.
    """
    readout = KeyMass("all", config.every)
    layers = chosen_layers(pipe, config.layers)
    recording = record_generated(pipe, prompt, [readout], config.chosen_timesteps, config.generation, layers)
    return strongest_keys(recording.record, config.top)


def strongest_keys(record: xr.Dataset, top: int) -> xr.Dataset:
    """The ``top`` keys with the most mass of a record of `KeyMass` with all heads, with the dims (timestep, layer, head, rank)."""
    kinds, names = name_keys(record)
    mass = _all_keys(record, "")
    error = _all_keys(record, "_error") if "text_key_mass_error" in record else np.zeros_like(mass)
    known = np.isfinite(mass).any((0, 1, 2))
    mass, error, kinds, names = mass[..., known], error[..., known], kinds[known], names[known]
    order = np.argsort(-mass, axis=-1, kind="stable")[..., : min(top, mass.shape[-1])]
    dims = ("timestep", "layer", "head", "rank")
    said = {
        "sink_mass": "mean probability that the image queries give to the key",
        "sink_error": "standard error of that mean, over the image queries that were read",
        "sink_kind": "what the key is",
        "sink_key": "the key: its place in the image, or its text",
    }
    values = (np.take_along_axis(mass, order, -1), np.take_along_axis(error, order, -1), kinds[order], names[order])
    variables = {
        name: (dims, value, {"long_name": said[name], "units": "1"}) for name, value in zip(said, values, strict=True)
    }
    kept = {name: record[name] for name in ("timestep", "layer", "sigma", "step") if name in record.coords}
    found = xr.Dataset(variables, {**kept, "rank": ("rank", np.arange(1, order.shape[-1] + 1))}, record.attrs)
    found["rank"].attrs = {"long_name": "place among the keys of one head, 1 the most attended to", "units": "1"}
    return found.assign_attrs(keys=int(known.sum()))


def name_keys(record: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """What each key is, and its name: the image's keys, then the text's, then others, as in the record's variables."""
    grid = tuple(int(size) for size in record.attrs["grid"])
    kinds, names = [], []
    for place in np.ndindex(grid):
        kinds.append(_image_kind(place, grid))
        where = dict(zip(("row", "col") if len(grid) == 2 else ("frame", "row", "col"), place, strict=True))
        names.append(", ".join(f"{axis} {number}" for axis, number in where.items()))
    count = record.sizes["token"]
    known = "token_kind" in record.coords and record["token_kind"].dims == ("token",)
    kinds += [str(kind) for kind in record["token_kind"].values] if known else [TEXT] * count
    texts = [str(text) for text in record["token_text"].values] if known else [""] * count
    names += [f"token {number}{f' {text!r}' if text else ''}" for number, text in enumerate(texts)]
    if "extra" in record.coords:
        labels = [str(label) for label in record["extra"].values]
        kinds, names = kinds + [label.split(" ")[0] for label in labels], names + labels
    return np.array(kinds, dtype=str), np.array(names, dtype=str)


def _image_kind(place: tuple[int, ...], grid: tuple[int, ...]) -> str:
    if len(grid) == 3 and place[0] == 0:
        return FIRST_FRAME
    at_ends = all(number in (0, size - 1) for number, size in zip(place[-2:], grid[-2:], strict=True))
    return CORNER if at_ends else IMAGE


def _all_keys(record: xr.Dataset, suffix: str) -> np.ndarray:
    """(timestep, layer, head, key), the keys in the order of `name_keys`."""
    grid = [dim for dim in ("frame", "row", "col") if dim in record.dims]
    image = record[f"image_key_mass{suffix}"].transpose("timestep", "layer", "head", *grid).values
    parts = [image.reshape(*image.shape[:3], -1), record[f"text_key_mass{suffix}"].values]
    if f"extra_key_mass{suffix}" in record:
        parts.append(record[f"extra_key_mass{suffix}"].values)
    return np.concatenate(parts, -1)


def run_sinks(
    pipe: Pipeline, config: SinksConfig, out: Path, model: str, progress: Progress | None = None
) -> xr.Dataset:
    """All prompts, each written to ``out`` as it is done; a run that was interrupted continues.

    Returns `measure_sinks`' variables (prompt, timestep, layer, head, rank).
    """
    check_sampling("sinks", config)
    folder = RunFolder.for_study(out, "sinks", model, config)
    joined = run_prompts(lambda prompt: measure_sinks(pipe, prompt, config), config.prompts, folder, progress)
    return joined.assign_attrs(model=model, every=config.every)


def sinks_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per prompt, timestep, layer, head and rank.

    ``kind`` and ``key`` say what the key is, ``mass`` is its mean probability in [0, 1] with its standard ``error`` over image
    queries, ``times_uniform`` mass times the number of ``keys``: 1 if every query attended to all keys alike.
    """
    names = {"sink_kind": "kind", "sink_key": "key", "sink_mass": "mass", "sink_error": "error"}
    frame = record[list(names)].rename(names).to_dataframe().reset_index()
    keys = int(record.attrs["keys"])
    frame = frame.assign(times_uniform=frame["mass"] * keys, keys=keys)
    return frame[list(COLUMNS)].sort_values([*COLUMNS[:2], "layer", "head", "rank"], ignore_index=True)


def kinds_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per timestep, layer and kind: in which ``share`` of heads and prompts the strongest key is of that kind.

    ``times_uniform`` is the mean of these strongest keys; ``n`` the number of prompts.
    """
    strongest = table[table["rank"] == 1]
    by = ["timestep", "sigma", "layer"]
    whole = strongest.groupby(by)["mass"].size()
    found = strongest.groupby([*by, "kind"]).agg(count=("mass", "size"), times_uniform=("times_uniform", "mean"))
    frame = found.reset_index()
    frame["share"] = frame["count"] / whole.reindex(pd.MultiIndex.from_frame(frame[by])).to_numpy()
    frame["n"] = table["prompt"].nunique()
    return frame[[*by, "kind", "n", "share", "times_uniform"]]


def summary(table: pd.DataFrame, every: int = 1) -> list[str]:
    """Lines that say what the strongest keys are, with the interval of their kinds' shares over prompts."""
    strongest = table[table["rank"] == 1]
    by_prompt = pd.crosstab(strongest["prompt"], strongest["kind"], normalize="index")
    shares = by_prompt.mean().sort_values(ascending=False)
    form, lines = Form(0, 100), []
    for kind in shares.index:
        interval = mean_interval(by_prompt[kind].to_numpy())
        times = strongest.loc[strongest["kind"] == kind, "times_uniform"]
        lines.append(
            f"{kind}: the most attended key of {shares[kind]:.0%} of all heads, layers and timesteps "
            f"{in_words(interval, form, 'prompt')}; {times.median():.1f} times uniform in the median, {times.max():.0f} at most."
        )
    top = strongest.loc[strongest["times_uniform"].idxmax()]
    lines.append(
        f"The largest of all: {top['kind']} ({top['key']}) in layer {top['layer']}, head {top['head']}, t = {top['timestep']}: "
        f"{top['mass']:.1%} of the image's attention, {top['times_uniform']:.0f} times uniform; the highest of "
        f"{len(strongest)}, no test."
    )
    if every > 1:
        lines.append(
            f"One of every {every} image queries was read: the masses have standard errors over queries, "
            f"{table['error'].median():.1g} in the median and {table['error'].max():.1g} at most."
        )
    return lines
