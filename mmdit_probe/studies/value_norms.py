"""Value norms: how long the value vectors of image and text tokens are, layer by layer (Seg4Diff, Fig. 4)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import xarray as xr

from ..configs import ValueNormsConfig
from ..families import Pipeline
from ..metrics.verdicts import Form, counted
from ..readouts.value_norms import STREAMS, ValueNorms
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .layer_lead import layer_lead, over_prompts
from .recording import check_sampling, record_generated, run_prompts


def measure_norms(pipe: Pipeline, prompt: str, config: ValueNormsConfig) -> xr.Dataset:
    """One prompt: ``value_norm`` (timestep, layer, head, stream), in the units of the value projections."""
    return record_generated(pipe, prompt, [ValueNorms()], config.chosen_timesteps, config.generation).record


def run_norms(
    pipe: Pipeline, config: ValueNormsConfig, out: Path, model: str, progress: Progress | None = None
) -> xr.Dataset:
    """All prompts, each written to ``out`` as it is done; a run that was interrupted continues.

    Returns ``value_norm`` (prompt, timestep, layer, head, stream).
    """
    check_sampling("value norms", config)
    folder = RunFolder.for_study(out, "value-norms", model, config)
    joined = run_prompts(lambda prompt: measure_norms(pipe, prompt, config), config.prompts, folder, progress)
    return joined.assign_attrs(model=model)


def heads_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep, layer, head and stream: ``norm`` is the mean over prompts of the mean L2 norm."""
    norms = record["value_norm"]
    frame = (norms.mean("prompt") if "prompt" in norms.dims else norms).rename("norm").to_dataframe().reset_index()
    columns = ["timestep", "sigma", "layer", "head", "stream", "norm"]
    return frame[columns]


def norms_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep and layer, of ``n`` prompts.

    ``image``, ``text`` (all text positions) and ``prompt`` (words alone) are mean L2 norms over heads and prompts,
    ``*_spread`` their standard deviation over prompts; ``text_to_image`` and ``prompt_to_image`` are ratios of the means. With
    reference images, ``reference 1`` and so on, and their ratios, follow.
    """
    norms = record["value_norm"].mean("head")
    if "prompt" not in norms.dims:
        norms = norms.expand_dims("prompt")
    mean, spread = norms.mean("prompt").to_dataset("stream"), norms.std("prompt").to_dataset("stream")
    references = [str(name) for name in mean.data_vars if name not in STREAMS]
    ratios = {f"{name}_to_image": mean[name] / mean["image"] for name in ("text", "prompt", *references)}
    spreads = {f"{name}_spread": spread[name] for name in spread.data_vars}
    frame = mean.assign(ratios).assign(spreads).to_dataframe().reset_index()
    frame = frame.drop(columns=["step", "scheduler_timestep"], errors="ignore")
    frame["n"] = norms.sizes["prompt"]
    columns = ["timestep", "sigma", "layer", "n", *STREAMS, *references, *ratios, *sorted(spreads)]
    return frame[columns].sort_values(["timestep", "layer"], ignore_index=True)


def lead(record: xr.Dataset) -> list[str]:
    """Lines on the lead of the layer with the largest text / image ratio, over prompts."""
    norms = record["value_norm"].mean("head")
    ratio = norms.sel(stream="text", drop=True) / norms.sel(stream="image", drop=True)
    return [] if bool(ratio.isnull().all()) else layer_lead(ratio, Form(2))


def summary(table: pd.DataFrame) -> list[str]:
    """Lines that say what the table shows, in averages over tokens, heads, timesteps and prompts."""
    mean = table.groupby("layer")[["image", "text", "prompt", "text_to_image", "prompt_to_image"]].mean()
    if mean["image"].isna().all():
        longest = mean["text"].idxmax()
        return [
            f"Layer {longest} has the longest text values, {mean.loc[longest, 'text']:.2f}; image tokens are no keys in "
            f"this model's layers, so that there is no ratio."
        ]
    top, words = mean["text_to_image"].idxmax(), mean["prompt_to_image"].dropna()
    median = mean["text_to_image"].median()
    lines = [
        f"Layer {top} has the longest text values against image values: {mean.loc[top, 'text_to_image']:.2f} times "
        f"(median over layers {median:.2f}); averages over tokens, heads, {counted(table['timestep'].nunique(), 'timestep')} "
        f"and {over_prompts(table)}, as are all below."
    ]
    for name in [column for column in table if column.startswith("reference") and "_" not in column]:
        ratio = table.groupby("layer")[f"{name}_to_image"].mean()
        lines.append(
            f"Values of {name}: {ratio.median():.2f} times those of the image in the median layer, most in layer "
            f"{ratio.idxmax()} ({ratio.max():.2f})."
        )
    if words.empty:
        return [*lines, "Which text positions are words is not known here, so there is no ratio for the prompt alone."]
    return [
        *lines,
        f"Words alone: layer {words.idxmax()} has the largest ratio, {words.max():.2f} (median {words.median():.2f}).",
    ]
