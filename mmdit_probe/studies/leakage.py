"""Leakage: how much of a word's map lies on the masks of other objects, by reading, layer and timestep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ..configs import EvaluateConfig, LeakageConfig
from ..datasets.labeled import IGNORE, LabeledImages, Sample
from ..families import Pipeline
from ..metrics.leakage import mask_shares, mass_on_masks
from ..pipelines.layers import chosen_layers
from ..pipelines.vocabulary import unknown_words
from ..segmentation.map_reader import MapReader
from ..segmentation.segmenters import read_class_maps, reader_of
from ..storage.images import cropped
from ..storage.records import FORMAT, versions
from ..storage.runs import RunFolder, Unit
from ..utils.distributed import worker_share
from ..utils.memory import run_in_batches
from ..utils.progress import Progress

SIGNED = ("output", "concept")
"""Readings that are similarities and may be negative."""
MEANINGS = {
    "share": "share of the word's map, of what lies on labeled pixels, that lies on the object's mask",
    "area": "share of the labeled pixels that the object's mask covers: what a flat map would give",
}
Loaded = tuple[np.ndarray, np.ndarray]


def run_leakage(
    pipe: Pipeline,
    images: LabeledImages,
    config: LeakageConfig,
    out: Path,
    model: str,
    progress: Progress | None = None,
) -> dict[str, xr.Dataset]:
    """By reading, the shares of every pair of a word and an object in the images' labels; resumable.

    The prompt is the names of all classes that an image shows. Each dataset has ``share`` (pair, timestep, layer) and ``area``
    (pair), both in [0, 1], and the coordinates ``image``, ``word`` and ``object`` of each pair: objects are classes of
    ``config.objects`` (all if empty), word and object may be the same, and images with fewer than two of them have no pairs.
    Shares are of the map's mass on labeled pixels, cells shared out by area. Maps that may be negative (`SIGNED`) count from
    their own lowest value.

    Args:
        pipe: a pipeline whose family takes images as input.
        images: the data set.
        config: the settings.
        out: output folder; an interrupted run continues there.
        model: what the numbers depend on in the model, in words (`storage.digests.model_label`).
        progress: called after each batch.

    `ValueError` before any work if a setting is wrong, an object is no class of the data set, or ``out`` holds a run with
    other settings; and if no image shows two objects.

    >>> import tempfile
    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.datasets.registry import open_dataset
    >>> config = LeakageConfig(layers=(7,), timesteps=(2,), batch=5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = run_leakage(load_pipeline(), open_dataset("scenes", limit=5), config, Path(folder), "tiny-sd3")
    >>> own = found["i2t"]["word"] == found["i2t"]["object"]
    >>> bool(found["i2t"]["share"][own].mean() > found["i2t"]["area"][own].mean())
    True
    """
    numbers = object_numbers(images.classes, config.objects)
    readers = {read: _reader(pipe, config, read) for read in config.read}
    digest = images.digest if worker_share().begins else ""
    known: dict[str, Any] = {"images": len(images.samples), "data": digest}
    known |= {"unknown_words": list(unknown_words(pipe, images.classes))}
    known |= {key: value for reader in readers.values() for key, value in reader.settings.items()}
    folder = RunFolder.for_study(out, "leakage", model, config, **known)
    tasks = list(product(readers, range(0, len(images.samples), config.batch)))

    def measure(read: str, start: int) -> xr.Dataset:
        samples = list(images.samples[start : start + config.batch])
        return _measure_batch(readers[read], read, samples, images.classes, numbers, config.crop)

    units = [Unit(f"{read}-images-{start:06d}", partial(measure, read, start)) for read, start in tasks]
    found: dict[str, list[xr.Dataset]] = {read: [] for read in readers}
    with folder.open() as run:
        for (read, _), item in zip(tasks, run.finished(units, progress), strict=True):
            found[read].append(item)
    joined = {read: _joined(parts) for read, parts in found.items()}
    if not any(part.sizes["pair"] for part in joined.values()):
        raise ValueError(f"leakage: none of {len(images.samples)} images shows two objects; name other --objects")
    return {
        read: part.assign_attrs(model=model, read=read, layers_read=readers[read].name) for read, part in joined.items()
    }


def object_numbers(classes: Sequence[str], objects: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes that count as objects; `ValueError` if one is no class, or if there is only one."""
    unknown = [name for name in objects if name not in classes]
    if unknown:
        raise ValueError(f"objects: {unknown[0]!r} is no class of the data set; choose of {', '.join(classes)}")
    if len(set(objects)) == 1:
        raise ValueError(f"objects: give at least two classes, got {objects[0]!r} alone")
    return tuple(number for number, name in enumerate(classes) if not objects or name in objects)


def _reader(pipe: Pipeline, config: LeakageConfig, read: Any) -> MapReader:
    own: dict[str, Any] = {
        name: getattr(config, name) for name in ("aggregate", "steps", "seed", "max_sequence_length")
    }
    layers = chosen_layers(pipe, config.layers)
    return reader_of(pipe, EvaluateConfig(read=read, **own), layers, config.chosen_timesteps, "probs", "mean")


def _measure_batch(
    reader: MapReader, read: str, samples: Sequence[Sample], classes: Sequence[str], numbers: Sequence[int], crop: str
) -> xr.Dataset:
    loaded, kept = [], []
    for sample in samples:
        image, labels = (cropped(part, crop) for part in sample.load())
        if len(_present(labels, numbers)) > 1:
            kept.append(sample.name)
            loaded.append((image, labels))

    def measure(part: Sequence[Loaded]) -> list[xr.Dataset]:
        shown = [[int(number) for number in np.unique(labels) if number != IGNORE] for _, labels in part]
        names = [[classes[number] for number in own] for own in shown]
        maps = read_class_maps(reader, [image for image, _ in part], names)
        return [
            _pairs(
                own,
                labels,
                present,
                [place for place, number in enumerate(present) if number in numbers],
                classes,
                read,
            )
            for own, (_, labels), present in zip(maps, part, shown, strict=True)
        ]

    found, at_once = run_in_batches(measure, loaded) if loaded else ([], len(samples))
    pairs = [
        one.assign_coords(image=("pair", [name] * one.sizes["pair"])) for one, name in zip(found, kept, strict=True)
    ]
    empty = _dataset(np.empty((0, len(reader.timesteps), len(reader.layers))), np.empty(0), [], [])
    joined = _joined([empty.assign_coords(image=("pair", np.empty(0, str))), *pairs])
    coordinates = {
        "timestep": list(reader.timesteps),
        "sigma": ("timestep", list(reader.sigmas)),
        "layer": list(reader.layers),
    }
    attrs = {"format": FORMAT, "images_at_once": at_once, **versions()}
    return joined.assign_coords(coordinates).assign_attrs(attrs)


def _present(labels: np.ndarray, numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if bool((labels == number).any())]


def _pairs(
    maps: Tensor, labels: np.ndarray, present: Sequence[int], places: Sequence[int], classes: Sequence[str], read: str
) -> xr.Dataset:
    """All pairs of objects of one image, from its class maps (timestep, layer, class, row, col)."""
    values = maps[:, :, list(places)].float().cpu().numpy()
    if read in SIGNED:
        values = values - values.min((-2, -1), keepdims=True)
    shares = mask_shares(labels, present, (values.shape[-2], values.shape[-1]))
    found = mass_on_masks(values, shares)[..., list(places)]
    area = mass_on_masks(np.ones((1, *shares.shape[1:])), shares)[0, list(places)]
    names = [classes[present[place]] for place in places]
    count = len(names)
    flat = np.moveaxis(found.reshape(*found.shape[:2], count * count), -1, 0)
    return _dataset(flat, np.tile(area, count), np.repeat(names, count), np.tile(names, count))


def _dataset(share: np.ndarray, area: np.ndarray, words: Sequence[str] | np.ndarray, objects: Any) -> xr.Dataset:
    about = {name: {"long_name": said, "units": "1"} for name, said in MEANINGS.items()}
    return xr.Dataset(
        {"share": (("pair", "timestep", "layer"), share, about["share"]), "area": ("pair", area, about["area"])},
        {"word": ("pair", np.array(words, dtype=str)), "object": ("pair", np.array(objects, dtype=str))},
    )


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Pairs of several images, one after the other."""
    return xr.concat(parts, "pair", coords="minimal", compat="override", combine_attrs="override")
