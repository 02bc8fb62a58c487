"""Measuring the record of an explorer page: I2T maps of chosen layers, curves of every layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..configs import ExploreConfig, scaled_timesteps
from ..configs.timesteps import chosen_timesteps
from ..families import Pipeline
from ..pipelines.defaults import model_defaults
from ..pipelines.generation import steps_at
from ..pipelines.image_size import native_size, token_pixels
from ..pipelines.layers import chosen_layers, layer_numbers
from ..probe.probe import Probe
from ..readouts.base import Readout
from ..readouts.head_groups import HeadGroupMaps, group_labels, group_sizes
from ..readouts.key_mass import KeyMass
from ..readouts.maps import T2IMaps
from ..readouts.pair_maps import PairMaps
from ..readouts.region_mass import RegionMass
from ..readouts.text_to_text import T2TMaps
from ..readouts.value_norms import ValueNorms
from ..studies.recording import Recording, by_timestep, record_generated, record_image
from .where_text import WhereText

_QUERIES, _UNKNOWN = 1024, 4096
"""About how many image queries the mass of single keys is read of, and the size of an image if it is not known."""
FEW_LAYERS = 6
FEW_TIMESTEPS = (8, 28)
"""What a page of a large image holds by default."""


def measure_exploration(pipe: Pipeline, config: ExploreConfig, image: np.ndarray | None = None) -> Recording:
    """Measure one image: ``image`` (height, width, 3) uint8 RGB, or a generated one if None.

    The record has ``i2t_group`` (timestep, map_layer, head_group, row, col, token), probabilities in [0, 1] of the chosen
    layers, and ``region_mass`` and ``value_norm`` of every layer; of the chosen layers also what ``config.regions`` names,
    see `region_readouts`.
    """
    layers, timesteps = chosen(pipe, config, image)
    further = region_readouts(config.regions, _image_tokens(pipe, config, image))
    readouts, generation = [HeadGroupMaps(config.head_groups), *further], config.generation
    steps = steps_at(timesteps, generation.steps)
    calls = steps if image is None else tuple(range(len(steps)))
    with Probe(pipe, [RegionMass(), ValueNorms()], steps=calls) as everywhere:
        where = (timesteps, generation, layers)
        if image is None:
            recording = record_generated(pipe, config.prompt or "", readouts, *where, decode=True)
        else:
            recording = record_image(pipe, image, config.prompt or "", readouts, *where)
    curves = by_timestep(everywhere, calls, timesteps, steps)
    return Recording(joined(pipe, recording.record, curves, config.head_groups), recording.image)


def region_readouts(regions: Sequence[str], image_tokens: float) -> list[Readout]:
    """The readouts of what a page shows beside I2T, of about so many image tokens; means over heads.

    t2i: ``t2i``; t2t: ``t2t``; i2i: `PairMaps`, with those of references; sinks: `KeyMass`. A model that lacks a region has none
    of its fields.
    """
    every = max(1, round(min(image_tokens, _UNKNOWN) / _QUERIES))
    known: dict[str, Readout] = {
        "t2i": WhereText(T2IMaps()),
        "t2t": WhereText(T2TMaps()),
        "i2i": PairMaps(),
        "sinks": KeyMass(every=every),
    }
    return [readout for name, readout in known.items() if name in regions]


def joined(pipe: Pipeline, maps: xr.Dataset, curves: xr.Dataset, head_groups: int) -> xr.Dataset:
    """The record of a page: ``i2t_group`` of chosen layers, with ``region_mass`` and ``value_norm`` of every layer.

    ``maps`` has the attributes of the whole, and ``head_groups`` is the most groups that `HeadGroupMaps` was given.
    """
    maps = maps.rename(layer="map_layer")
    record = curves.merge(maps, compat="override", join="outer", combine_attrs="override")
    sizes = group_sizes(record.sizes["head"], head_groups)
    record = record.assign_coords(head_group=group_labels(sizes), heads=("head_group", sizes))
    expert = model_defaults(pipe).expert_layer
    return record.assign_attrs(maps.attrs, expert_layer=-1 if expert is None else expert)


def chosen(
    pipe: Pipeline, config: ExploreConfig, image: np.ndarray | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The layers and timesteps whose maps the page holds: the config's, or by the image's size if they are None."""
    layers, timesteps = config.layers, config.timesteps
    small = _image_tokens(pipe, config, image) <= config.small
    if timesteps is None:
        count = config.generation.steps
        every = tuple(range(count, 0, -1))
        timesteps = every if small else tuple(sorted(scaled_timesteps(FEW_TIMESTEPS, count), reverse=True))
    if layers is None:
        known = layer_numbers(pipe)
        layers = known if small else spread(known, model_defaults(pipe).expert_layer)
    return chosen_layers(pipe, layers), chosen_timesteps(timesteps, FEW_TIMESTEPS, config.generation.steps)


def spread(layers: Sequence[int], expert: int | None) -> tuple[int, ...]:
    """At most `FEW_LAYERS` evenly spaced layers, first and last among them; the expert replaces the nearest one."""
    picked = np.linspace(0, len(layers) - 1, min(FEW_LAYERS, len(layers))).round().astype(int)
    kept = [layers[place] for place in picked]
    if expert is not None and expert in layers and expert not in kept:
        kept[int(np.abs(np.array(kept) - expert).argmin())] = expert
    return tuple(kept)


def _image_tokens(pipe: Pipeline, config: ExploreConfig, image: np.ndarray | None) -> float:
    """The approximate number of image tokens; infinity if the pipeline does not tell its size."""
    try:
        side, token = native_size(pipe), token_pixels(pipe)
    except (AttributeError, ValueError):  # pipelines of videos
        return float("inf")
    height, width = (config.generation.height or side, config.generation.width or side)
    height, width = (height, width) if image is None else image.shape[:2]
    return (height / token) * (width / token)
