"""What correspondence shows: tables by layer and timestep, and sentences."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from ..metrics.inference import FEWEST, best, mean_interval
from ..metrics.verdicts import Form, in_words, lead_lines, listed
from .correspondence import frame_means, returned

KEYS = ["timestep", "sigma", "layer"]
_PERCENT = Form(1, 100)


def moved_table(record: xr.Dataset) -> pd.DataFrame:
    """One row for each timestep and layer: means over ``n`` pairs of `studies.correspondence.MEASURES`.

    ``accuracy`` lies in ``low`` to ``high`` (95%, over pairs; NaN below 5); ``above_chance`` is how much more it is than the
    pair's ``chance``, with its own interval.
    """
    frame = record.to_dataframe().reset_index()
    rows = []
    for keys, own in frame.groupby(KEYS, sort=False):
        accuracy = mean_interval(own["accuracy"].to_numpy())
        above = mean_interval((own["accuracy"] - own["chance"]).to_numpy())
        means = {name: own[name].mean() for name in ("on_thing", "on_chance", "same_place", "returned", "confidence")}
        bounds = {"n": accuracy.n, "accuracy": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
        over = {"above_chance": above.mean, "above_low": above.low, "above_high": above.high}
        rows.append({**dict(zip(KEYS, keys, strict=True)), **bounds, "chance": own["chance"].mean(), **over, **means})
    return pd.DataFrame(rows)


def moved_summary(record: xr.Dataset, table: pd.DataFrame, match: str, within: int) -> list[str]:
    """For each timestep the layer that is right most often, its lead, and how often it names the old place."""
    near = {0: "exactly", 1: "to a token"}.get(within, f"to {within} tokens")
    lines = []
    for timestep, own in table.groupby("timestep", sort=False):
        values = record["accuracy"].sel(timestep=timestep).transpose("layer", "pair").values
        names = [f"layer {layer}" for layer in record["layer"].values]
        where = f"{match}, t = {timestep} (sigma {own['sigma'].iloc[0]:.3f})"
        lead = best(values[..., None])
        row = own.iloc[lead.leader]
        leader = listed([names[place] for place in lead.tied])
        lines.append(
            f"{where}: {leader} {'finds' if len(lead.tied) == 1 else 'find'} the moved thing's places most often, {near}: "
            f"{_PERCENT(row['accuracy'])}% {in_words(lead.value, _PERCENT, 'pair')}; by chance {_PERCENT(row['chance'])}%."
        )
        if len(lead.tied) == 1 and lead.value.n >= FEWEST:
            lines += [f"{where}: {line}" for line in lead_lines(lead, names, _PERCENT, "pair", "layer")]
        lines.append(
            f"{where}: {_PERCENT(row['on_thing'])}% of the matches lie on the thing (by chance {_PERCENT(row['on_chance'])}%), "
            f"{_PERCENT(row['same_place'])}% at the place that it has left."
        )
    return lines


def images_table(record: xr.Dataset, within: int) -> pd.DataFrame:
    """One row for each timestep and layer of two images: ``confidence`` and ``returned``, means over the first one's tokens."""
    grid = ["row", "col"]
    confidence = record["match_confidence"].sel(image=0, drop=True).mean(grid)
    found = xr.Dataset({"confidence": confidence, "returned": returned(record, within).mean(grid)})
    return found.to_dataframe().reset_index()[[*KEYS, "confidence", "returned"]]


def images_summary(table: pd.DataFrame) -> list[str]:
    """Which layer and timestep has the most matches that are matched back."""
    most = table.loc[table["returned"].idxmax()]
    return [
        f"Most matches are matched back in layer {most['layer']:.0f} at t = {most['timestep']:.0f}: "
        f"{_PERCENT(most['returned'])}% of the first image's tokens; the highest of {len(table)}, no test. Where things are in "
        f"the second image is not known: no accuracy."
    ]


def frames_table(record: xr.Dataset) -> pd.DataFrame:
    """One row for each timestep, layer and frame: means over ``n`` prompts, ``confidence`` with its 95% interval over them."""
    frame = frame_means(record).to_dataframe().reset_index()
    rows = []
    for keys, own in frame.groupby([*KEYS, "to_frame"], sort=False):
        found = mean_interval(own["confidence"].to_numpy())
        bounds = {"n": found.n, "confidence": found.mean, "low": found.low, "high": found.high}
        means = {name: own[name].mean() for name in ("distance", "mass") if name in own}
        rows.append({**dict(zip([*KEYS, "to_frame"], keys, strict=True)), **bounds, **means})
    return pd.DataFrame(rows)


def frames_summary(table: pd.DataFrame, frame: int) -> list[str]:
    """Which layer is surest of its matches in the other frames."""
    others = table[table["to_frame"].astype(int) != frame]
    if others.empty:
        return ["The video has one frame: there is nothing to match it with."]
    by_layer = others.groupby(["timestep", "layer"])["confidence"].mean()
    timestep, layer = by_layer.idxmax()
    return [
        f"Matches of frame {frame} in the other frames are surest in layer {layer} at t = {timestep}: "
        f"{by_layer.max():.3f} in the mean; the highest of {len(by_layer)}, no test. Where things go is not known: no accuracy."
    ]
