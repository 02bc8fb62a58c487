"""Masks against ground truth: all timesteps, layers and heads in one pass over the images; resumable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr

from ..configs import EvaluateConfig
from ..datasets.labeled import LabeledImages, Sample
from ..families import Pipeline
from ..pipelines.vocabulary import unknown_words
from ..storage.images import cropped
from ..storage.records import FORMAT, versions
from ..storage.runs import RunFolder, Unit
from ..utils.distributed import worker_share
from ..utils.memory import run_in_batches
from ..utils.progress import Progress
from .counter import Counter, MapCounter
from .counts import COUNTS, MATCHINGS, count_trivial
from .trivial import TRIVIAL

SETTING = ("timestep", "layer", "head")
"""What the maps of one image differ in; each combination is evaluated separately."""


def run_evaluation(
    pipe: Pipeline | None,
    images: LabeledImages,
    config: EvaluateConfig,
    out: Path,
    model: str,
    progress: Progress | None = None,
    counter: Counter | None = None,
) -> Iterator[xr.Dataset]:
    """Evaluate masks on labeled images: the pixel counts of each batch, in order, for `tabulate`.

    Finished batches are read from ``out``, not computed again. Each batch holds ``counts`` (image, matching, timestep,
    layer, head, count, class): pixels that are true positives, false positives and false negatives of each class; with
    ``config.trivial`` also ``trivial_counts`` (image, matching, baseline, count, class).

    Args:
        pipe: a pipeline whose family takes images as input; not used if ``counter`` is given.
        images: the data set.
        config: the evaluation's settings.
        out: output folder; an interrupted run continues there.
        model: what the numbers depend on in the model, in words (`storage.digests.model_label`).
        progress: called after each batch.
        counter: another system than Seg4Diff, or a variant of it; its settings are written to ``out`` with the others.

    `ValueError` before any work if a setting is wrong or ``out`` holds a run with other settings.

    >>> import tempfile
    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.datasets.registry import open_dataset
    >>> from mmdit_probe.evaluation.tables import tabulate
    >>> pipe, config = load_pipeline("tiny-sd3"), EvaluateConfig(layers=(6, 7), timesteps=(2,), limit=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     batches = run_evaluation(pipe, open_dataset("scenes", limit=4), config, Path(folder), "tiny-sd3")
    ...     result = tabulate(batches)
    >>> list(result.settings.columns)
    ['matching', 'timestep', 'sigma', 'layer', 'head', 'pacc', 'macc', 'miou', 'miou_absent_zero', 'n', 'low', 'high']
    >>> int(result.settings.set_index("layer")["miou"].idxmax()), len(result.images)
    (7, 8)
    """
    check(config)
    if counter is None and config.method != EvaluateConfig.method:
        raise ValueError(f"evaluate: method {config.method} needs its counter, see baselines.selection")
    if counter is None:
        if pipe is None:
            raise ValueError("evaluate: give a pipeline, or the counter of a system that has none")
        counter = MapCounter(pipe, config)
    digest = images.digest if worker_share().begins else ""
    known: dict[str, Any] = {"images": len(images.samples), "data": digest}
    if pipe is not None and config.task == "open-vocabulary":
        known["unknown_words"] = list(unknown_words(pipe, images.classes))
    folder = RunFolder.for_study(out, "evaluate", model, config, **known, **counter.settings)
    return _batches(counter, images, config, folder, progress)


def check(config: EvaluateConfig) -> None:
    """`ValueError` if settings contradict each other."""
    named = (config.normalize, config.refine, config.vocabulary, config.read, config.aggregate)
    if config.task == "unsupervised" and named != ("probs", "none", "present", "i2t", "layer"):
        raise ValueError(
            "evaluate: normalize, refine, vocabulary, read and aggregate belong to the open-vocabulary task"
        )
    if config.task != "unsupervised" and config.trivial:
        raise ValueError("evaluate: the trivial baselines belong to the unsupervised task")
    if not config.threshold > 0:
        raise ValueError(f"evaluate: the threshold must be above 0, got {config.threshold}")


def _batches(
    counter: Counter,
    images: LabeledImages,
    config: EvaluateConfig,
    folder: RunFolder,
    progress: Progress | None,
) -> Iterator[xr.Dataset]:
    def counted(start: int) -> xr.Dataset:
        return _count_batch(counter, images.samples[start : start + config.batch], images.classes, config)

    starts = range(0, len(images.samples), config.batch)
    units = [Unit(f"images-{start:06d}", partial(counted, start)) for start in starts]
    with folder.open() as run:
        yield from run.finished(units, progress)


def _load(sample: Sample, crop: str) -> tuple[np.ndarray, np.ndarray]:
    """The cropped image (height, width, 3) and label map (height, width) of a sample."""
    image, labels = sample.load()
    return cropped(image, crop), cropped(labels, crop)


def _count_batch(
    counter: Counter, samples: Sequence[Sample], classes: tuple[str, ...], config: EvaluateConfig
) -> xr.Dataset:
    samples = list(samples)
    loaded = [_load(sample, config.crop) for sample in samples]
    start = perf_counter()
    counts, at_once = run_in_batches(lambda part: counter.count(part, classes), loaded)
    variables: dict[str, Any] = {"seconds": perf_counter() - start}
    variables["counts"] = (("image", "matching", *SETTING, "count", "class"), np.stack(counts))
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
        trivial = [count_trivial(image, labels, len(classes), config.seed) for image, labels in loaded]
        variables["trivial_counts"] = (("image", "matching", "baseline", "count", "class"), np.stack(trivial))
        coordinates["baseline"] = list(TRIVIAL)
    return xr.Dataset(variables, coordinates, {"format": FORMAT, "images_at_once": at_once, **versions()})
