"""The attention budget: what share of each query's attention goes to image and to text (Seg4Diff, section 3.2)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import xarray as xr

from ..attention.layout import OTHERS
from ..configs import BudgetConfig
from ..families import Pipeline
from ..metrics.verdicts import Form, counted
from ..probe.dataset import recorded_layout, uniform_shares
from ..readouts.kind_mass import KindMass
from ..readouts.region_mass import RegionMass
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .layer_lead import layer_lead, over_prompts
from .recording import check_sampling, record_generated, run_prompts


def measure_budget(pipe: Pipeline, prompt: str, config: BudgetConfig) -> xr.Dataset:
    """One prompt: ``region_mass`` (timestep, layer, head, region) of the conditional half, in [0, 1].

    And the text's part by kinds of tokens, ``kind_mass`` and ``kind_tokens``; see `KindMass`.
    """
    return record_generated(pipe, prompt, [RegionMass(), KindMass()], config.chosen_timesteps, config.generation).record


def run_budget(
    pipe: Pipeline, config: BudgetConfig, out: Path, model: str, progress: Progress | None = None
) -> xr.Dataset:
    """All prompts, each written to ``out`` as it is done; a run that was interrupted continues.

    Returns ``region_mass`` (prompt, timestep, layer, head, region), and the same by kinds of text tokens.
    """
    check_sampling("attention budget", config)
    folder = RunFolder.for_study(out, "attention-budget", model, config)
    joined = run_prompts(lambda prompt: measure_budget(pipe, prompt, config), config.prompts, folder, progress)
    return joined.assign_attrs(model=model, seed=config.generation.seed, steps=config.generation.steps)


def budget_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep, layer and region, of ``n`` prompts.

    ``mass`` and ``spread`` are mean and standard deviation over prompts of the mean over heads, in [0, 1];
    ``uniform`` is the mass if every query attended to all tokens alike, ``ratio`` is mass / uniform.

    With reference images there are more rows: of I2R, T2R, R2I, R2T and R2R; of each reference if there are several, such as
    "I2R 2"; and of the tokens of no stream if there are any, "I2O", "T2O" and "R2O".
    """
    by_prompt = budget_regions(record).mean("head")
    frame = (
        xr.Dataset({"mass": by_prompt.mean("prompt"), "spread": by_prompt.std("prompt")}).to_dataframe().reset_index()
    )
    frame["uniform"] = frame["region"].map(_uniform(record))
    frame["ratio"] = frame["mass"] / frame["uniform"]
    frame["n"] = record.sizes["prompt"]
    columns = ["timestep", "sigma", "layer", "region", "n", "mass", "spread", "uniform", "ratio"]
    return frame[columns]


def budget_regions(record: xr.Dataset) -> xr.DataArray:
    """``region_mass`` and, with reference images, what is told apart in ``reference_mass`` and ``other_mass``, as regions."""
    mass = record["region_mass"]
    if "reference_mass" not in record:
        return mass
    layout, told, others = recorded_layout(record), record["reference_mass"], record["other_mass"]
    sizes = xr.DataArray([float(extra.tokens) for extra in layout.references], dims="asking")
    parts = [mass]
    if layout.extra:
        parts.append(_by_asking(others, sizes).assign_coords(region=[f"{letter}2{OTHERS}" for letter in "ITR"]))
    if len(layout.references) > 1:
        for number in told["reference"].values.tolist():
            one = _by_asking(told.sel(reference=number, drop=True), sizes)
            parts.append(one.assign_coords(region=[f"{letter}2R {number}" for letter in "ITR"]))
    return xr.concat(parts, "region")


def _by_asking(mass: xr.DataArray, sizes: xr.DataArray) -> xr.DataArray:
    """What image, text and all references together give, (..., region); ``sizes`` are the references' numbers of tokens."""
    image, text = (mass.sel(asking=name, drop=True) for name in ("image", "text"))
    references = mass.isel(asking=slice(2, None)).drop_vars("asking")
    mean = (references * sizes).sum("asking", skipna=False) / float(sizes.sum())
    return xr.concat([image, text, mean], "region")


def _uniform(record: xr.Dataset) -> dict[str, float]:
    """Of every row of the table, the mass if every query attended to all keys alike."""
    layout, shares = recorded_layout(record), uniform_shares(record)
    for letter in "ITR" if layout.references else "":
        shares[f"{letter}2{OTHERS}"] = layout.extra / layout.keys
        shares |= {f"{letter}2R {n}": extra.tokens / layout.keys for n, extra in enumerate(layout.references, 1)}
    return shares


def lead(record: xr.Dataset) -> list[str]:
    """Lines on the lead of the layer with the largest I2T mass, over prompts."""
    return layer_lead(record["region_mass"].sel(region="I2T"), Form(1, 100))


def summary(table: pd.DataFrame) -> list[str]:
    """Lines that say what the table shows, in averages over heads, timesteps and prompts."""
    i2t = table[table["region"] == "I2T"]
    mean = i2t.groupby("layer")[["mass", "uniform", "ratio"]].mean()
    top, low = mean["mass"].idxmax(), mean["mass"].idxmin()
    above = int((mean["ratio"] > 1).sum())
    lines = _on_references(table)
    t2i = table[table["region"] == "T2I"].groupby("layer")["ratio"].mean().dropna()
    return [
        f"Layer {top} gives text the most: {mean.loc[top, 'mass']:.1%} of an image token's attention, "
        f"{mean.loc[top, 'ratio']:.2f} times uniform ({mean.loc[top, 'uniform']:.1%}); averages over heads, "
        f"{counted(table['timestep'].nunique(), 'timestep')} and {over_prompts(table)}, as are all below.",
        f"{above} of {len(mean)} layers give text more than uniform; layer {low} gives it the least, "
        f"{mean.loc[low, 'mass']:.1%} ({mean.loc[low, 'ratio']:.2f} times uniform).",
        "Text tokens look at nothing in this model's layers: it has no T2I attention."
        if t2i.empty
        else f"Text tokens look at the image {t2i.mean():.2f} times as much as uniform, averaged over layers "
        f"(most in layer {t2i.idxmax()}: {t2i.max():.2f}).",
        *lines,
    ]


def _on_references(table: pd.DataFrame) -> list[str]:
    """A line on what the image gives to reference images; none if there are none."""
    i2r = table[table["region"] == "I2R"].groupby("layer")[["mass", "uniform", "ratio"]].mean().dropna()
    if i2r.empty:
        return []
    top = i2r["mass"].idxmax()
    line = (
        f"Layer {top} gives reference images the most: {i2r.loc[top, 'mass']:.1%} of an image token's attention, "
        f"{i2r.loc[top, 'ratio']:.2f} times uniform ({i2r.loc[top, 'uniform']:.1%})"
    )
    each = table[table["region"].str.startswith("I2R ")].groupby("region")["mass"].mean()
    told = [f"{mass:.1%} to reference {str(region).split()[1]}" for region, mass in each.items()]
    return [f"{line}; over all layers {', '.join(told)}." if told else f"{line}."]
