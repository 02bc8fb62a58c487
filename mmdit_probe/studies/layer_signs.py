"""The signs of an expert layer on scenes, over noise seeds: text mass, masks and harm by blur, and what padding and sinks take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..datasets.scenes import Scene
from ..families import Pipeline, denoiser_of, layers_of, text_parts_of
from ..families.block_streams import block_streams
from ..metrics.inference import Interval, mean_interval
from ..metrics.verdicts import Form, in_words
from ..pipelines.forward import forward_noisy, noise_level
from ..pipelines.prompts import describe
from ..probe.probe import Probe
from ..readouts.key_mass import KeyMass
from .scene_grounding import MEAN_OF_LAYERS, blur_harm, measure_layers, scene_batches

SIGNS = {"i2t_ratio": "the most text mass", "miou": "the best masks", "harm": "the most harm by blur"}
"""What an expert layer has, by column."""


def measure_signs(
    pipe: Pipeline, scenes: Sequence[Scene], timestep: int, seed: int, max_sequence_length: int, steps: int = 28
) -> pd.DataFrame:
    """Every layer's signs at one timestep with one noise seed; the prompt is the names of a scene's classes.

    Returns:
        One row for each layer, and one for the mean of all layers' maps, which has ``miou`` alone: ``timestep``, ``sigma``,
        ``seed``, ``layer``; ``miou`` in [0, 1]; ``i2t_mass``, the attention of image tokens to text in [0, 1], and ``i2t_ratio``,
        that divided by the text's share of the tokens; ``harm``, what blurring the layer's I2T attention takes of the
        caption's use (`blur_harm`); ``padding``, the share of ``i2t_mass`` that goes to padding, and ``padding_tokens``, the share
        of text tokens that are padding; ``top_key``, the largest mean attention of the image to any single key, times the
        number of keys.
    """
    masks, mass = measure_layers(pipe, scenes, timestep, seed, max_sequence_length, steps)
    table = masks[["timestep", "sigma", "seed", "layer", "miou"]].merge(
        mass[["layer", "i2t_mass", "uniform"]], how="left"
    )
    table["i2t_ratio"] = table["i2t_mass"] / table.pop("uniform")
    harm = blur_harm(pipe, scenes, timestep, seed, max_sequence_length)
    keys = _keys(pipe, scenes, noise_level(pipe, timestep, steps), seed, max_sequence_length)
    return table.merge(harm[["layer", "harm"]], how="left").merge(keys, how="left")


def _keys(pipe: Pipeline, scenes: Sequence[Scene], sigma: float, seed: int, max_sequence_length: int) -> pd.DataFrame:
    """``padding``, ``padding_tokens`` and ``top_key`` of each layer."""
    padding, tokens, top = [], [], []
    for batch in scene_batches(pipe, scenes, max_sequence_length):
        parts = text_parts_of(pipe, max_sequence_length)
        is_padding = describe(parts, [scene.class_list() for scene in batch.scenes]).kinds == "padding"
        with Probe(pipe, [KeyMass()]) as probe:
            forward_noisy(pipe, batch.latents, sigma, batch.prompts, seed + batch.scenes[0].index)
        record = probe.dataset().isel(call=0)
        text = record["text_key_mass"].transpose("batch", "layer", "token").values
        image = record["image_key_mass"].stack(key=["row", "col"]).transpose("batch", "layer", "key").values
        keys = np.concatenate([image, text], -1)
        padding.append((text * is_padding[:, None]).sum(-1) / text.sum(-1))
        tokens.append(is_padding.mean(-1))
        top.append(keys.max(-1) * keys.shape[-1])
    return pd.DataFrame(
        {
            "layer": record["layer"].values,
            "padding": np.concatenate(padding).mean(0),
            "padding_tokens": np.concatenate(tokens).mean(),
            "top_key": np.concatenate(top).mean(0),
        }
    )


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Each number's mean over noise seeds with its 95% interval (NaN below 5 seeds).

    One row for each ``timestep``, ``layer`` and ``sign``: ``sigma``, ``n`` seeds, ``mean``, ``low``, ``high``.
    """
    names = ["miou", "i2t_mass", "i2t_ratio", "harm", "padding", "padding_tokens", "top_key"]
    rows = []
    for (timestep, layer), own in table.groupby(["timestep", "layer"], sort=False):
        for name in names:
            found = mean_interval(own[name].to_numpy(float))
            rows.append(
                {"timestep": timestep, "sigma": own["sigma"].iloc[0], "layer": layer, "sign": name, **found._asdict()}
            )
    return pd.DataFrame(rows)


def stream_of(pipe: Pipeline, layer: int) -> str:
    """Whether the layer is "double", where text has projections of its own, or "single"; "" if its block is unknown."""
    transformer = denoiser_of(pipe)
    attention = layers_of(transformer)[layer]
    if block_streams(transformer, attention) is None:
        return ""
    return "single" if getattr(attention, "add_k_proj", None) is None else "double"


def leader_lines(pipe: Pipeline, table: pd.DataFrame, timestep: int) -> list[str]:
    """Which layer leads by each sign at a timestep, by how much, in how many seeds; and whether all three name the same."""
    own = table[(table["timestep"] == timestep) & (table["layer"] != MEAN_OF_LAYERS)]
    lines, leaders = [], {}
    for sign, said in SIGNS.items():
        values = own.pivot(index="seed", columns="layer", values=sign).astype(float)
        order = values.mean().sort_values(ascending=False)
        first, second = int(order.index[0]), int(order.index[1])
        leaders[sign] = first
        lead = mean_interval((values[first] - values[second]).to_numpy())
        wins = int((values.idxmax(axis=1) == first).sum())
        lines.append(
            f"Layer {first}{_in_stream(pipe, first)} has {said}, {_number(sign, order.iloc[0])}; its lead over layer {second} is "
            f"{_interval(sign, lead)}; first in {wins} of {len(values)} seeds."
        )
    same = len(set(leaders.values())) == 1
    lines.append("All three are one layer." if same else "The three are not one layer.")
    return lines


def _in_stream(pipe: Pipeline, layer: int) -> str:
    stream = stream_of(pipe, layer)
    return f" ({stream}-stream)" if stream else ""


def _number(sign: str, value: float) -> str:
    return f"{value:.2f} times uniform" if sign == "i2t_ratio" else f"{100 * value:.1f}%"


def _interval(sign: str, lead: Interval) -> str:
    form = Form(2, 1) if sign == "i2t_ratio" else Form(1, 100)
    return f"{form(lead.mean)} {in_words(lead, form, 'noise seed')}"


def other_lines(table: pd.DataFrame, timestep: int) -> list[str]:
    """What the mean of all layers' maps is worth, where padding takes most of the text's mass, and the strongest key."""
    own = table[table["timestep"] == timestep]
    layers = own[own["layer"] != MEAN_OF_LAYERS]
    best = layers.pivot(index="seed", columns="layer", values="miou").mean().idxmax()
    whole = own[own["layer"] == MEAN_OF_LAYERS].set_index("seed")["miou"]
    single = layers[layers["layer"] == best].set_index("seed")["miou"]
    gain = mean_interval((whole - single).to_numpy(float))
    padding, top = (layers.groupby("layer")[name].mean().astype(float) for name in ("padding", "top_key"))
    share = float(layers["padding_tokens"].astype(float).mean())
    points = Form(1, 100, sign=True)
    return [
        f"The mean of all layers' maps: {100 * whole.mean():.1f}% mIoU, {points(gain.mean)} points against layer {best} "
        f"{in_words(gain, points, 'noise seed')}.",
        f"Padding, {100 * share:.0f}% of the text's tokens, takes {100 * padding.mean():.0f}% of its mass on average, most in "
        f"layer {padding.idxmax()} ({100 * padding.max():.0f}%), least in layer {padding.idxmin()} ({100 * padding.min():.0f}%).",
        f"The strongest single key has {top.max():.1f} times uniform, in layer {top.idxmax()}; {top.median():.1f} times in the "
        f"median layer.",
    ]
