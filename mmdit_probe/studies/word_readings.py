"""Maps of words by every reading: attention, outputs, concepts and contributions, of single layers or several together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from ..configs import MapsConfig
from ..configs.reading import WEIGHTS, Read
from ..readouts.base import Readout
from ..readouts.concepts import ConceptMaps
from ..readouts.contributions import Contributions
from ..readouts.output_similarity import OutputMaps
from ..readouts.word_maps import WordMaps
from ..segmentation.layer_weights import read_weights

PROBABILITIES = ("i2t", "t2i")
"""Readings whose maps are probabilities and have heads of their own."""


def check_reading(config: MapsConfig) -> None:
    """`ValueError` if the settings contradict each other."""
    if config.direction not in PROBABILITIES and config.heads != "mean":
        raise ValueError(f"maps: read {config.direction} has no map for each head; leave heads out")
    if config.aggregate == "goca":
        raise ValueError("maps: aggregate goca is for segment and evaluate; take mean or weights:FILE")
    if config.aggregate != "layer" and config.heads != "mean":
        raise ValueError("maps: aggregate puts means over heads together; leave heads out")


def word_readout(config: MapsConfig, spans: Sequence[Sequence[int]]) -> Readout:
    """The readout of words at these text positions; concepts need none."""
    if config.direction == "concept":
        return ConceptMaps(config.words)
    if config.direction == "contribution":
        return Contributions(spans)
    return OutputMaps() if config.direction == "output" else WordMaps(spans, config.direction, config.heads)


def as_word_maps(record: xr.Dataset, config: MapsConfig, spans: Sequence[Sequence[int]]) -> xr.Dataset:
    """The record with ``word_map`` (timestep, layer, [head,] word, row, col), whatever was read."""
    if config.direction == "output":
        maps = record["output_map"]
        words = xr.concat([maps.isel(token=list(span)).mean("token") for span in spans], "word")
        found = words.transpose("timestep", "layer", "word", ...)
        record = record.drop_dims("token").assign(word_map=found.assign_attrs(maps.attrs))
    elif config.direction == "contribution":
        record = record[["contribution"]].rename(contribution="word_map")
    elif config.direction == "concept":
        record = record[["concept_map"]].rename(concept_map="word_map", concept="word")
    record = record.assign_coords(word=list(config.words)).assign_attrs(direction=config.direction)
    return record if config.aggregate == "layer" else _together(record, config.aggregate)


def _together(record: xr.Dataset, aggregate: str) -> xr.Dataset:
    """With one layer, named in words, in place of all that were read."""
    layers = [int(layer) for layer in record["layer"].values]
    weights = np.full(len(layers), 1 / len(layers))
    if aggregate.startswith(WEIGHTS):
        found = read_weights(Path(aggregate.removeprefix(WEIGHTS)), layers).numpy()
        if found.ndim > 1:
            raise ValueError("maps: weights of heads are for segment and evaluate; give one weight a layer")
        weights = found
    maps = record["word_map"]
    mean = (maps * xr.DataArray(weights, dims="layer")).sum("layer", skipna=False).expand_dims("layer")
    name = f"{'weighted ' if aggregate != 'mean' else ''}mean of {len(layers)} layers"
    kept = record.drop_dims("layer").assign_attrs(layers=layers)
    return kept.assign(word_map=mean.transpose(*maps.dims).assign_attrs(maps.attrs)).assign_coords(layer=[name])


def is_share(read: Read) -> bool:
    """Whether a reading's maps are probabilities."""
    return read in PROBABILITIES
