"""The text's part of the attention budget by kinds of tokens: words, start, end, padding, template and absent positions."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from ..metrics.verdicts import counted
from ..probe.dataset import recorded_layout
from .layer_lead import over_prompts


def kinds_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep, layer, queries (image, text) and kind of text token that occurs, of ``n`` prompts.

    ``mass`` and ``spread`` are mean and standard deviation over prompts of the mean over heads, in [0, 1]; ``tokens`` is the
    mean number of tokens of the kind, ``uniform`` the mass if every query attended to all keys alike, ``ratio`` mass / uniform.
    Empty if it is unknown which tokens are which.
    """
    columns = ["timestep", "sigma", "layer", "queries", "kind", "n", "tokens", "mass", "spread", "uniform", "ratio"]
    by_prompt, tokens = record["kind_mass"].mean("head"), record["kind_tokens"].mean("prompt")
    numbers = {"mass": by_prompt.mean("prompt"), "spread": by_prompt.std("prompt"), "tokens": tokens}
    frame = xr.Dataset(numbers).to_dataframe().reset_index()
    frame = frame[frame["mass"].notna() & (frame["tokens"] > 0)]
    frame = frame.assign(uniform=frame["tokens"] / recorded_layout(record).keys, n=record.sizes["prompt"])
    return frame.assign(ratio=frame["mass"] / frame["uniform"])[columns].reset_index(drop=True)


def kinds_summary(table: pd.DataFrame) -> list[str]:
    """A line on what takes the text's part of the image queries' attention, in averages over layers."""
    image = table[table["queries"] == "image"]
    if image.empty:
        return ["By kinds of text tokens: unknown, the model's text positions are not described."]
    mean = image.groupby("kind")[["mass", "uniform"]].mean().sort_values("mass", ascending=False)
    whole = mean["mass"].sum()
    parts = [
        f"{kind} {row['mass'] / whole:.0%} ({row['mass'] / row['uniform']:.2f} times uniform)"
        for kind, row in mean.iterrows()
    ]
    return [
        f"Of the attention that image tokens give to text: {', '.join(parts)}; averages over layers, heads, "
        f"{counted(table['timestep'].nunique(), 'timestep')} and {over_prompts(table)}."
    ]
