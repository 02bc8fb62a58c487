"""Everything that is seen in one generation: budget, value norms, heads, principal components and word maps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import AnalyzeConfig
from ..families import Pipeline
from ..pipelines.layers import chosen_layers
from ..readouts.base import Readout
from ..readouts.feature_pca import FeaturePCA
from ..readouts.head_stats import KINDS, HeadStats
from ..readouts.region_mass import RegionMass
from ..readouts.value_norms import ValueNorms
from ..readouts.word_maps import WordMaps
from ..utils.text import is_content_word
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
    positions: dict[str, list[int]] = {}
    for word in dict.fromkeys(part.strip(".,;:!?\"'()") for part in config.prompt.split()):
        if not is_content_word(word):
            continue
        try:
            positions[word] = maps.word_positions(pipe, config.prompt, [word], config.generation)[0]
        except ValueError:  # cut off by the tokenizer: only words that the user named are an error
            continue
    return positions


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


def read_heads_aloud(heads: pd.DataFrame) -> list[str]:
    """A line on the head that looks at words most, and one on attention sinks, where token kinds are known."""
    if heads["on_word"].isna().all():
        return ["Which text tokens are words is not known here, so heads can't be told apart by what they look at."]
    mean = heads.groupby(["layer", "head"])[["on_word", "on_start", "on_padding", "on_text"]].mean()
    layer, head = mean["on_word"].idxmax()
    total = heads[["on_start", "on_padding", "on_text"]].mean()
    return [
        f"Head {head} of layer {layer} looks at words most: {mean['on_word'].max():.1%} of an image token's attention.",
        f"Over all heads {total['on_start'] / total['on_text']:.0%} of the attention to text goes to the start token and "
        f"{total['on_padding'] / total['on_text']:.0%} to padding.",
    ]


def summary(found: dict[str, pd.DataFrame]) -> list[str]:
    """What each table shows, in a few lines."""
    lines = [
        *budget.summary(found["attention_budget"])[:1],
        *norms.summary(found["value_norms"])[:1],
        *read_heads_aloud(found["heads"]),
        *pca.summary(found["pca"])[:1],
    ]
    return [*lines, *maps.summary(found["maps"])] if "maps" in found else lines
