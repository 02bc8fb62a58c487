"""What leakage shows: tables by layer, by image and by pair of classes, and sentences."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from ..metrics.inference import FEWEST, best, mean_interval
from ..metrics.verdicts import Form, counted, in_words, lead_lines, listed

KEYS = ["read", "timestep", "sigma", "layer"]
_PERCENT = Form(1, 100)


def images_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """One row for each reading, timestep, layer and image.

    ``leakage`` is the share of a word's map on the masks of the other objects, ``flat`` what a flat map would have there: means
    over the image's words, in [0, 1].
    """
    others = _pairs(found)
    others = others[others["word"] != others["object"]]
    by_word = others.groupby([*KEYS, "image", "word"], sort=False)[["share", "area"]].sum(min_count=1)
    by_image = by_word.groupby([*KEYS, "image"], sort=False).mean()
    return by_image.rename(columns={"share": "leakage", "area": "flat"}).reset_index()


def layers_table(images: pd.DataFrame) -> pd.DataFrame:
    """One row for each reading, timestep and layer: means over images with their 95% intervals, NaN below 5 images.

    ``leakage`` lies in ``low`` to ``high``; ``below_flat`` is how much less it is than a flat map's, ``flat``, paired by image.
    """
    rows = []
    for keys, own in images.groupby(KEYS, sort=False):
        leakage = mean_interval(own["leakage"].to_numpy())
        below = mean_interval((own["flat"] - own["leakage"]).to_numpy())
        bounds = {"leakage": leakage.mean, "low": leakage.low, "high": leakage.high, "flat": own["flat"].mean()}
        less = {"below_flat": below.mean, "below_low": below.low, "below_high": below.high}
        rows.append({**dict(zip(KEYS, keys, strict=True)), "n": leakage.n, **bounds, **less})
    return pd.DataFrame(rows)


def pairs_table(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """One row for each reading, timestep, layer, word and object: means over the ``n`` images that show both.

    ``share`` of the word's map lies on the object's mask, ``area`` would of a flat map; ``times_flat`` is their ratio.
    """
    grouped = _pairs(found).groupby([*KEYS, "word", "object"], sort=False)
    frame = grouped[["share", "area"]].mean()
    frame.insert(0, "n", grouped["share"].count())
    return frame.assign(times_flat=frame["share"] / frame["area"].where(frame["area"] > 0)).reset_index()


def _pairs(found: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """One row for each pair, timestep and layer; layers that were put together by name."""
    frames = []
    for read, record in found.items():
        together = record.sizes["layer"] == 1 and int(record["layer"][0]) < 0
        named = record.assign_coords(layer=[record.attrs["layers_read"]]) if together else record
        frames.append(named.to_dataframe().reset_index().assign(read=read))
    return pd.concat(frames, ignore_index=True)


def summary(images: pd.DataFrame, table: pd.DataFrame, pairs: pd.DataFrame, total: int) -> list[str]:
    """For each timestep the layer and reading that leak least and by how much, and the pairs that leak most there."""
    lines = [f"{images['image'].nunique()} of {counted(total, 'image')} show two or more objects."]
    for (timestep, sigma), own in images.groupby(["timestep", "sigma"], sort=False):
        where = f"timestep {timestep} (sigma {sigma:.3f})"
        values = own.pivot_table(index=["read", "layer"], columns="image", values="leakage", sort=False, dropna=False)
        names = [_name(read, layer) for read, layer in values.index]
        lead = best(-values.to_numpy()[..., None])
        read, layer = values.index[lead.leader]
        row = table[(table["timestep"] == timestep) & (table["read"] == read) & (table["layer"] == layer)].iloc[0]
        leader = listed([names[place] for place in lead.tied])
        lines.append(
            f"{where}: {leader} {'leaks' if len(lead.tied) == 1 else 'leak'} least, {_PERCENT(row['leakage'])}% of a word's map "
            f"lies on other objects {in_words(-lead.value, _PERCENT, 'image')}; of a flat map {_PERCENT(row['flat'])}%."
        )
        if len(lead.tied) == 1 and lead.value.n >= FEWEST:
            kind = "layer" if images["read"].nunique() == 1 else "candidate"
            lines += [f"{where}: {line}" for line in lead_lines(lead, names, _PERCENT, "image", kind)]
        lines += _worst(pairs[(pairs["timestep"] == timestep) & (pairs["read"] == read) & (pairs["layer"] == layer)])
    return lines


def worst_pairs(pairs: pd.DataFrame, most: int) -> pd.DataFrame:
    """The pairs of different classes in 5 images or more whose share is largest against a flat map's, largest first."""
    chosen = pairs[(pairs["word"] != pairs["object"]) & (pairs["n"] >= FEWEST)]
    return chosen.sort_values("times_flat", ascending=False, kind="stable").head(most)


def _worst(pairs: pd.DataFrame) -> list[str]:
    worst = worst_pairs(pairs, 3)
    if worst.empty:
        return []
    shown = ", ".join(
        f"{row['word']} on {row['object']} ({row['times_flat']:.2f} times flat, n = {row['n']})"
        for _, row in worst.iterrows()
    )
    return [f"The pairs with the most leakage there, the highest of many and no test: {shown}."]


def _name(read: str, layer: object) -> str:
    return f"{read}, {layer}" if isinstance(layer, str) else f"{read}, layer {layer}"
