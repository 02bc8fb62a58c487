"""The attention budget: what share of each query's attention goes to image and to text (Seg4Diff, section 3.2)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import xarray as xr

from ..configs import BudgetConfig
from ..families import Pipeline
from ..metrics.verdicts import Form, counted
from ..probe.dataset import uniform_shares
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
    """
    by_prompt = record["region_mass"].mean("head")
    frame = (
        xr.Dataset({"mass": by_prompt.mean("prompt"), "spread": by_prompt.std("prompt")}).to_dataframe().reset_index()
    )
    frame["uniform"] = frame["region"].map(uniform_shares(record))
    frame["ratio"] = frame["mass"] / frame["uniform"]
    frame["n"] = record.sizes["prompt"]
    columns = ["timestep", "sigma", "layer", "region", "n", "mass", "spread", "uniform", "ratio"]
    return frame[columns]


def lead(record: xr.Dataset) -> list[str]:
    """Lines on the lead of the layer with the largest I2T mass, over prompts."""
    return layer_lead(record["region_mass"].sel(region="I2T"), Form(1, 100))


def summary(table: pd.DataFrame) -> list[str]:
    """Lines that say what the table shows, in averages over heads, timesteps and prompts."""
    i2t = table[table["region"] == "I2T"]
    mean = i2t.groupby("layer")[["mass", "uniform", "ratio"]].mean()
    top, low = mean["mass"].idxmax(), mean["mass"].idxmin()
    above = int((mean["ratio"] > 1).sum())
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
    ]
