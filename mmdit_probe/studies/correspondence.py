"""Correspondence: which place of one image or frame each layer takes for which place of another, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..configs import CorrespondenceConfig
from ..datasets.moved import Moved, moved_pairs
from ..datasets.scenes import SIZE
from ..families import Pipeline
from ..metrics.leakage import mask_shares
from ..pipelines.forward import encode_images, encode_prompts, forward_noisy, noise_level
from ..pipelines.generation import generation_arguments, steps_at
from ..pipelines.image_size import native_size
from ..pipelines.layers import chosen_layers
from ..probe.coordinates import coordinate
from ..probe.probe import Probe
from ..readouts.correspondence import Correspondence
from ..storage.images import squared
from ..storage.records import FORMAT, versions
from ..storage.runs import RunFolder, Unit
from ..utils.progress import Progress
from .recording import check_sampling, record_generated, run_prompts

MEASURES = {
    "accuracy": "share of the moved thing's tokens that are matched to where they went, or as near as is asked",
    "chance": "that share if every place were as likely",
    "on_thing": "share of the moved thing's tokens that are matched to a token of the thing",
    "on_chance": "that share if every place were as likely",
    "same_place": "share of the moved thing's tokens that are matched to their own place, where the thing is no more",
    "returned": "share of the moved thing's tokens whose match is matched back to them, or as near as is asked",
    "confidence": "mean of the matches' probability or cosine",
}


def match_images(
    pipe: Pipeline, first: np.ndarray, second: np.ndarray, prompt: str, config: CorrespondenceConfig
) -> xr.Dataset:
    """`Correspondence` of two images (height, width, 3) uint8 RGB, stretched to the model's square.

    Each is mixed with noise of its own at every timestep, so that equal noise tells no places. Dims (timestep, image, layer, row,
    col); ``image`` 0 is matched to 1, and 1 to 0.
    """
    timesteps, generation = config.chosen_timesteps, config.generation
    latents = encode_images(pipe, [squared(image, native_size(pipe)) for image in (first, second)])
    length = generation_arguments(pipe, generation).get("max_sequence_length", 0)
    layers = chosen_layers(pipe, config.layers)
    prompts, records = encode_prompts(pipe, [prompt, prompt], length), []
    for timestep in timesteps:
        with Probe(pipe, [Correspondence(config.match)], layers=layers, stop_early=True) as probe:
            forward_noisy(pipe, latents, noise_level(pipe, timestep, generation.steps), prompts, generation.seed)
        records.append(probe.dataset("both"))
    record = xr.concat(records, "call", coords="minimal", compat="override", combine_attrs="override")
    times = {"timestep": list(timesteps), "step": list(steps_at(timesteps, generation.steps))}
    record = record.assign_coords({name: coordinate(name, "call", values) for name, values in times.items()})
    about = {"long_name": "which of the two images is matched to the other, from 0", "units": "1"}
    record = record.drop_dims("token", errors="ignore").swap_dims(call="timestep").rename(batch="image")
    known = [name for name in record.coords if name in ("timestep", "step", "sigma", "layer")]
    record = record.reset_coords(drop=True).assign_coords({name: record[name] for name in known})
    return record.assign_coords(image=("image", [0, 1], about)).assign_attrs(prompt=prompt, match=config.match)


def returned(record: xr.Dataset, within: int) -> xr.DataArray:
    """(timestep, layer, row, col) bool: whether a token of the first image is matched to one that is matched back to it.

    Or to a token at most ``within`` rows and columns off.
    """
    dims = ("timestep", "layer", "row", "col")
    forward, back = (record.sel(image=image, drop=True).transpose(*dims) for image in (0, 1))
    shape = tuple(forward.sizes[dim] for dim in dims)
    row, col = (forward[name].values.astype(int) for name in ("match_row", "match_col"))
    matched = (row * shape[3] + col).reshape(*shape[:2], -1)
    again = [
        np.take_along_axis(back[name].values.reshape(matched.shape), matched, -1).reshape(shape)
        for name in ("match_row", "match_col")
    ]
    found = _near(np.stack(again, -1), np.moveaxis(np.indices(shape[2:]), 0, -1), within)
    return xr.DataArray(found, {name: forward[name] for name in ("timestep", "layer", "sigma")}, dims)


def measure_moved(pipe: Pipeline, pair: Moved, config: CorrespondenceConfig) -> xr.Dataset:
    """`MEASURES` (timestep, layer) of one pair of scenes, means over the moved thing's tokens; the prompt names its classes.

    A token is the thing's if the thing covers half of it or more, or the most covered one if there is none. Places are true to
    the thing's shift, also where that is no whole number of tokens.
    """
    scenes, prompt = (pair.before, pair.after), " ".join(pair.before.classes)
    record = match_images(pipe, scenes[0].image, scenes[1].image, prompt, config)
    grid = (record.sizes["row"], record.sizes["col"])
    here, there = (thing_tokens(pair.mask(scene), grid) for scene in scenes)
    tokens = np.argwhere(here)
    expected = tokens + np.array(pair.shift) * np.array(grid) / SIZE
    forward = record.sel(image=0, drop=True)
    places = np.stack(
        [_at(forward[name], tokens) for name in ("match_row", "match_col")], -1
    )  # (timestep, layer, token, axis)
    number = places.astype(int)
    values = {
        "accuracy": _near(places, expected, config.within).mean(-1),
        "chance": np.full(places.shape[:2], _chance(expected, grid, config.within)),
        "on_thing": there[number[..., 0], number[..., 1]].mean(-1),
        "on_chance": np.full(places.shape[:2], there.mean()),
        "same_place": _near(places, tokens, 0).mean(-1),
        "returned": _at(returned(record, config.within), tokens).mean(-1),
        "confidence": _at(forward["match_confidence"], tokens).mean(-1),
    }
    variables = {
        name: (("timestep", "layer"), value, {"long_name": MEASURES[name], "units": "1"})
        for name, value in values.items()
    }
    kept = {name: record[name] for name in ("timestep", "layer", "sigma", "step") if name in record.coords}
    attrs = {"format": FORMAT, "prompt": prompt, "thing": pair.name, "shift": list(pair.shift), **versions()}
    return xr.Dataset(variables, kept, attrs)


def thing_tokens(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, cols) bool: tokens of which a mask (height, width) covers half or more; else the one it covers most."""
    share = mask_shares(mask.astype(int), [1], grid)[0]
    return share >= min(0.5, float(share.max()))


def _at(values: xr.DataArray, tokens: np.ndarray) -> np.ndarray:
    """(timestep, layer, token)."""
    return values.transpose("timestep", "layer", "row", "col").values[:, :, tokens[:, 0], tokens[:, 1]]


def _near(places: np.ndarray, expected: np.ndarray, within: float) -> np.ndarray:
    """Whether places (..., 2) are at most ``within`` off in both axes."""
    return (np.abs(places - expected) <= within + 1e-6).all(-1)


def _chance(expected: np.ndarray, grid: tuple[int, int], within: int) -> float:
    """The share of all places that count as right, mean over the expected ones (token, 2)."""
    every = np.argwhere(np.ones(grid, bool))
    return float(_near(every[:, None], expected, within).mean())


def run_moved(
    pipe: Pipeline, config: CorrespondenceConfig, out: Path, model: str, progress: Progress | None = None
) -> xr.Dataset:
    """`MEASURES` (pair, timestep, layer) of ``config.pairs`` pairs of held-out scenes, each written to ``out`` when it is done."""
    folder = RunFolder.for_study(out, "correspondence", model, config)
    pairs = moved_pairs("test", config.pairs)
    units = [Unit(f"pair-{n:04d}", partial(measure_moved, pipe, pair, config)) for n, pair in enumerate(pairs)]
    with folder.open() as run:
        found = list(run.finished(units, progress))
    joined = xr.concat(found, "pair", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    return joined.assign_attrs(model=model)


def measure_frames(pipe: Pipeline, prompt: str, config: CorrespondenceConfig) -> xr.Dataset:
    """`Correspondence` of the frames of a video that is generated, within its own I2I: (timestep, layer, to_frame, row, col)."""
    readouts = [Correspondence(config.match, config.frame)]
    layers = chosen_layers(pipe, config.layers)
    return record_generated(pipe, prompt, readouts, config.chosen_timesteps, config.generation, layers).record


def run_frames(
    pipe: Pipeline, config: CorrespondenceConfig, out: Path, model: str, progress: Progress | None = None
) -> xr.Dataset:
    """`measure_frames` of all prompts (prompt, timestep, layer, to_frame, row, col), each written to ``out`` when it is done."""
    check_sampling("correspondence", config)
    folder = RunFolder.for_study(out, "correspondence", model, config)
    joined = run_prompts(lambda prompt: measure_frames(pipe, prompt, config), config.prompts, folder, progress)
    return joined.assign_attrs(model=model)


def frame_means(record: xr.Dataset) -> xr.Dataset:
    """(prompt, timestep, layer, to_frame): means over the tokens of ``confidence``, how far matches lie from their own place in
    tokens (``distance``), and ``mass`` if that was read.
    """
    grid = {name: xr.DataArray(np.arange(record.sizes[name]), dims=name) for name in ("row", "col")}
    square: Any = sum((record[f"match_{name}"] - place) ** 2 for name, place in grid.items())
    found = {
        "confidence": record["match_confidence"].mean(["row", "col"]),
        "distance": (square**0.5).mean(["row", "col"]),
    }
    if "match_mass" in record:
        found["mass"] = record["match_mass"]
    return xr.Dataset(found)


def matched_places(record: xr.Dataset, timestep: int, layer: int, tokens: Sequence[tuple[int, int]]) -> np.ndarray:
    """(tokens, 2) the rows and columns of the second image that tokens of the first are matched to."""
    own = record.sel(image=0, timestep=timestep, layer=layer)
    return np.array([[float(own[name].values[place]) for name in ("match_row", "match_col")] for place in tokens])
