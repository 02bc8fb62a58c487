"""Masks against ground truth: all layers, heads and timesteps in one pass over the images, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr

from ..configs import EvaluateConfig
from ..datasets.labeled import LabeledImages, Sample
from ..segmentation.map_reader import MapReader
from ..segmentation.maps import make_readout
from ..segmentation.segmenters import Correct, read_class_maps, read_token_maps
from ..storage.images import cropped, read_rgb
from ..storage.records import FORMAT, versions
from ..storage.runs import RunFolder
from ..utils.distributed import WorkerShare
from ..utils.memory import run_in_batches
from ..utils.progress import Progress
from .counts import COUNTS, MATCHINGS, count_classes, count_regions, count_trivial, offered
from .trivial import TRIVIAL

VIEW = ("timestep", "layer", "head")
Loaded = Sequence[tuple[np.ndarray, np.ndarray]]
"""Images (height, width, 3) uint8 with their label maps."""


@runtime_checkable
class Counter(Protocol):
    """Whatever labels images: ``count`` gives each one's (matching, timestep, layer, head, count, class) pixels.

    ``sigmas`` are the noise levels of ``timesteps``, ``settings`` what the numbers depend on beside the evaluation's own.
    """

    timesteps: tuple[int, ...]
    sigmas: tuple[float, ...]
    layers: tuple[int, ...]
    settings: Mapping[str, Any]

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]: ...


class MapCounter:
    """Seg4Diff: the maps of every timestep, layer and head from one pass each.

    ``reader`` reads other maps than the configuration's; ``correct`` changes label maps.
    """

    def __init__(
        self,
        pipe: Any,
        config: EvaluateConfig,
        reader: MapReader | None = None,
        correct: Correct | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.correct, self.settings = config, correct, settings or {}
        self.reader = reader or _map_reader(pipe, config)
        self.timesteps, self.sigmas, self.layers = self.reader.timesteps, self.reader.sigmas, self.reader.layers

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        of = _classes if self.config.task == "open-vocabulary" else _regions
        return of(self, loaded, classes)


def _map_reader(pipe: Any, config: EvaluateConfig) -> MapReader:
    heads = "mean" if config.heads == "mean" else "all"
    return MapReader(
        pipe,
        make_readout(config.normalize, heads, config.refine),  # type: ignore[arg-type]
        config.layers,
        config.timesteps,
        seed=config.seed,
        max_sequence_length=config.max_sequence_length,
    )


def run_evaluation(
    pipe: Any,
    images: LabeledImages,
    config: EvaluateConfig,
    out: Path,
    model: str,
    progress: Progress | None = None,
    share: WorkerShare | None = None,
    counter: Counter | None = None,
) -> Iterator[xr.Dataset]:
    """The counts of each batch of images, in order; finished batches are read from ``out``, not computed.

    ``counts`` (image, matching, timestep, layer, head, count, class) are pixels: true positives, false positives and
    false negatives of each class. ``trivial_counts`` (image, matching, baseline, count, class) is there on request.
    With a ``share`` of several processes each computes its batches, and the first one alone gives the counts of all.
    ``counter`` is another system than Seg4Diff, or a variant of it, on ``pipe``; its settings go into ``out`` with the rest.
    `ValueError` before any work if a setting is wrong, or ``out`` holds a run with other ones.
    """
    check(config)
    if counter is None and config.method != EvaluateConfig.method:
        raise ValueError(f"evaluate: method {config.method} needs its counter, see baselines.evaluation")
    counter = counter or MapCounter(pipe, config)
    share = share or WorkerShare()
    known = {"images": len(images.samples), "data": images.digest if share.first else ""}
    folder = RunFolder.for_study(out, "evaluate", model, config, **known, **counter.settings)
    return _batches(counter, images, config, folder, progress, share)


def check(config: EvaluateConfig) -> None:
    """`ValueError` if a setting is unknown or two contradict each other."""
    for name, known in (
        ("task", tuple(MATCHINGS)),
        ("heads", ("mean", "each")),
        ("vocabulary", ("present", "full")),
        ("crop", ("stretch", "center")),
    ):
        if getattr(config, name) not in known:
            raise ValueError(f"evaluate: {name} must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    if config.batch < 1:
        raise ValueError(f"evaluate: batch must be at least 1, got {config.batch}")
    if config.task == "unsupervised" and (config.normalize, config.refine, config.vocabulary) != (
        "probs",
        "none",
        "present",
    ):
        raise ValueError("evaluate: normalize, refine and vocabulary belong to the open-vocabulary task")
    if config.task != "unsupervised" and config.trivial:
        raise ValueError("evaluate: the baselines belong to the unsupervised task")
    if not config.threshold > 0:
        raise ValueError(f"evaluate: the threshold must be above 0, got {config.threshold}")


def _batches(
    counter: Counter,
    images: LabeledImages,
    config: EvaluateConfig,
    folder: RunFolder,
    progress: Progress | None,
    share: WorkerShare,
) -> Iterator[xr.Dataset]:
    with folder.open() if share.first else nullcontext(folder) as run:
        share.wait()  # for the first process to have made the folder
        starts = range(0, len(images.samples), config.batch)
        own = starts[share.number :: share.processes]
        for done, start in enumerate(own):
            if run.item(_name(start)) is None:
                samples = images.samples[start : start + config.batch]
                run.write(_name(start), _count_batch(counter, samples, images.classes, config))
            if progress is not None:
                progress(done + 1, len(own))
        share.wait()
        for start in starts if share.first else ():
            yield _finished(run, _name(start))


def _name(start: int) -> str:
    return f"images-{start:06d}"


def _finished(run: RunFolder, name: str) -> xr.Dataset:
    item = run.item(name)
    if item is None:
        raise ValueError(f"{run.folder}: {name} is gone; start the run again, it computes what is missing")
    return item


def _load(sample: Sample, crop: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map, both cropped."""
    image = read_rgb(sample.image) if isinstance(sample.image, Path) else sample.image
    labels = sample.read()
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"{sample.name}: the label map is {labels.shape}, the image {image.shape[:2]} (height, width); they must agree"
        )
    return cropped(image, crop), cropped(labels, crop)


def _count_batch(
    counter: Counter, samples: Sequence[Sample], classes: tuple[str, ...], config: EvaluateConfig
) -> xr.Dataset:
    samples = list(samples)
    loaded = [_load(sample, config.crop) for sample in samples]
    start = perf_counter()
    counts, at_once = run_in_batches(lambda part: counter.count(part, classes), loaded)
    variables: dict[str, Any] = {"seconds": perf_counter() - start}
    variables["counts"] = (("image", "matching", *VIEW, "count", "class"), np.stack(counts))
    coordinates = {
        "image": [sample.name for sample in samples],
        "matching": list(MATCHINGS[config.task]),
        "timestep": list(counter.timesteps),
        "sigma": ("timestep", list(counter.sigmas)),
        "layer": list(counter.layers),
        "head": ["mean"] if config.heads == "mean" else [str(head) for head in range(counts[0].shape[3])],
        "count": list(COUNTS),
        "class": list(classes),
    }
    if config.trivial:
        rows = [count_trivial(image, labels, len(classes), config.seed) for image, labels in loaded]
        variables["trivial_counts"] = (("image", "matching", "baseline", "count", "class"), np.stack(rows))
        coordinates["baseline"] = list(TRIVIAL)
    return xr.Dataset(variables, coordinates, {"format": FORMAT, "images_at_once": at_once, **versions()})


def _classes(counter: MapCounter, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
    config = counter.config
    offers = [offered(labels, classes, config.vocabulary) for _, labels in loaded]
    names = [[classes[number] for number in offer] for offer in offers]
    found = read_class_maps(counter.reader, [image for image, _ in loaded], names)
    return [
        count_classes(
            _with_heads(maps, config),
            offer,
            labels,
            len(classes),
            config.normalize,
            None if counter.correct is None else counter.correct(image),
        )
        for (image, labels), offer, maps in zip(loaded, offers, found, strict=True)
    ]


def _regions(counter: MapCounter, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
    maps = read_token_maps(counter.reader, [image for image, _ in loaded])
    return [
        count_regions(_with_heads(maps[:, row], counter.config), labels, len(classes), counter.config)
        for row, (_, labels) in enumerate(loaded)
    ]


def _with_heads(maps: torch.Tensor, config: EvaluateConfig) -> torch.Tensor:
    """(timestep, layer, head, entry, row, col), one head where it is the mean."""
    return maps[:, :, None] if config.heads == "mean" else maps
