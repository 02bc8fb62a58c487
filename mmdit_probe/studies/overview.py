"""Everything that is seen in one generation: budget, value norms, heads, principal components and word maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import AnalyzeConfig
from ..families import Pipeline
from ..metrics.verdicts import counted
from ..pipelines.defaults import ModelDefaults
from ..pipelines.layers import chosen_layers
from ..readouts.base import Readout
from ..readouts.feature_pca import FeaturePCA
from ..readouts.head_stats import KINDS, HeadStats
from ..readouts.region_mass import RegionMass
from ..readouts.value_norms import ValueNorms
from ..readouts.word_maps import WordMaps
from . import attention_budget as budget
from . import feature_pca as pca
from . import value_norms as norms
from . import word_maps as maps
from .recording import Recording, record_generated, record_image


def words_of(pipe: Pipeline, config: AnalyzeConfig) -> dict[str, list[int]]:
    """The words to map and their text positions: the config's, or every content word of the prompt that is found."""
    if config.words:
        found = maps.word_positions(pipe, config.prompt, config.words, config.generation)
        return dict(zip(config.words, found, strict=True))
    return maps.content_words(pipe, config.prompt, config.generation)


def measure_everything(pipe: Pipeline, config: AnalyzeConfig, image: np.ndarray | None = None) -> Recording:
    """All studies' fields of one image from one pass; ``image`` (height, width, 3) uint8, None generates one.

    ``word_map`` is missing where the prompt has no word to map.
    """
    words = words_of(pipe, config)
    readouts: list[Readout] = [RegionMass(), ValueNorms(), HeadStats(), FeaturePCA()]
    if words:
        readouts.append(WordMaps(list(words.values())))
    where = (config.chosen_timesteps, config.generation, chosen_layers(pipe, config.layers))
    if image is None:
        recording = record_generated(pipe, config.prompt, readouts, *where, decode=True)
    else:
        recording = record_image(pipe, image, config.prompt, readouts, *where)
    record = recording.record.assign_attrs(direction="i2t")
    return Recording(record.assign_coords(word=list(words)) if words else record, recording.image)


def tables(record: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Each study's table, by its name."""
    one = record[["region_mass"]].expand_dims(prompt=[record.attrs.get("prompt", "")])
    found = {
        "attention_budget": budget.budget_table(one),
        "value_norms": norms.norms_table(record),
        "value_norms_heads": norms.heads_table(record),
        "heads": heads_table(record),
        "pca": pca.pca_table(record),
    }
    return {**found, "maps": maps.maps_table(record)} if "word_map" in record else found


def heads_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep, layer and head.

    ``entropy`` in nats and ``effective_tokens`` of the I2T rows, ``on_text`` the I2T mass, and ``on_start``,
    ``on_word`` and so on the mass on each kind of text token, all in [0, 1] but the first two; see `HeadStats`.
    """
    kinds = {f"on_{kind}": record["i2t_kind_mass"].sel(kind=str(kind), drop=True) for kind in KINDS}
    chosen = xr.Dataset(
        {
            "entropy": record["i2t_entropy"],
            "effective_tokens": record["i2t_effective_tokens"],
            "on_text": record["region_mass"].sel(region="I2T", drop=True),
            **kinds,
        }
    )
    frame = chosen.to_dataframe().reset_index().drop(columns=["step", "scheduler_timestep"], errors="ignore")
    columns = ["timestep", "sigma", "layer", "head", *chosen.data_vars]
    return frame[columns]


def expert_line(heads: pd.DataFrame, defaults: ModelDefaults) -> str:
    """The expert layer, if one is known, and how its attention to text splits over the kinds of text tokens."""
    layer = defaults.expert_layer
    if layer is None:
        return "No expert layer is known for this model; mmdit-probe find-expert looks for one."
    own = heads[heads["layer"] == layer]
    if own.empty:
        return f"The expert layer of this model is {layer} ({defaults.why}); it was not measured here."
    said = f"The expert layer of this model is {layer} ({defaults.why}): its image tokens give text {own['on_text'].mean():.1%} of"
    shares = {kind: own[f"on_{kind}"].mean() for kind in SPOKEN}
    told = {kind: share for kind, share in shares.items() if share > 0 or (share == 0 and kind in ALWAYS)}
    split = ", ".join(f"{share:.1%} to {SPOKEN[kind]}" for kind, share in told.items())
    split = split or "which text tokens are words is not known here"
    return f"{said} their attention ({split}), averaged over {_averages(heads)}."


ALWAYS = ("word", "start", "end", "padding")
"""Kinds of text tokens that are named also if nothing looks at them."""
SPOKEN = {
    "word": "words",
    "start": "the start token",
    "end": "the end token",
    "padding": "padding",
    "template": "the template",
    "absent": "positions of an absent text encoder",
}


def _averages(heads: pd.DataFrame) -> str:
    return f"{counted(heads['head'].nunique(), 'head')} and {counted(heads['timestep'].nunique(), 'timestep')} of one image"


def highest_line(found: dict[str, pd.DataFrame]) -> str:
    """Which layer has the most by which measure; that these may be different layers is no contradiction."""
    mass = found["heads"].groupby("layer")["on_text"].mean()
    ratio = found["value_norms"].groupby("layer")["text_to_image"].mean().dropna()
    image = found["pca"][found["pca"]["stream"] == "image"] if "pca" in found else pd.DataFrame()
    place = image.groupby("layer")["position_r2"].mean().dropna() if len(image) else pd.Series(dtype=float)
    said = [f"layer {mass.idxmax()} by attention to text ({mass.max():.1%})"] if mass.notna().any() else []
    said += [f"layer {ratio.idxmax()} by text / image value norm ({ratio.max():.2f})"] if len(ratio) else []
    said += [f"layer {place.idxmax()} by R² of features from position ({place.max():.2f})"] if len(place) else []
    return (
        f"The highest layer, measure by measure: {'; '.join(said)}; averaged over {_averages(found['heads'])}, no test."
    )


def read_heads_aloud(heads: pd.DataFrame) -> list[str]:
    """A line on the head that looks at words most, and one on attention sinks, where token kinds are known."""
    if heads["on_word"].isna().all():
        return ["Which text tokens are words is not known here, so heads can't be told apart by what they look at."]
    mean = heads.groupby(["layer", "head"])[["on_word", "on_start", "on_padding", "on_text"]].mean()
    layer, head = mean["on_word"].idxmax()
    total = heads[["on_start", "on_padding", "on_text"]].mean()
    return [
        f"Of all {len(mean)} heads, head {head} of layer {layer} looks at words most by attention: "
        f"{mean['on_word'].max():.1%} of an image token's, averaged over {counted(heads['timestep'].nunique(), 'timestep')}.",
        f"Averaged over all heads and layers {total['on_start'] / total['on_text']:.0%} of the attention to text goes to the "
        f"start token and {total['on_padding'] / total['on_text']:.0%} to padding.",
    ]


def summary(found: dict[str, pd.DataFrame], defaults: ModelDefaults) -> list[str]:
    """What the tables show, in a few lines: the expert layer first."""
    lines = [expert_line(found["heads"], defaults), highest_line(found), *read_heads_aloud(found["heads"])]
    return [*lines, *maps.summary(found["maps"])] if "maps" in found else lines
