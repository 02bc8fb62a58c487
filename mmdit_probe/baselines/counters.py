"""Baselines as counters of an evaluation: with the same images, classes, metrics and resuming as Seg4Diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..configs import EvaluateConfig, SegmentConfig, as_dict
from ..configs.baselines import DiffCutConfig, DiffSegConfig, RefineConfig
from ..evaluation.counter import Loaded, MapCounter
from ..evaluation.counts import matched_counts, offered
from ..families import Pipeline
from ..metrics.segmentation import measure_labels
from ..pipelines.defaults import expert_layer
from ..pipelines.layers import chosen_layers
from ..segmentation.label_map import label_map
from ..segmentation.map_reader import MapReader
from ..segmentation.maps import make_readout
from ..segmentation.segmenters import CorrectionOf, OpenVocabularySegmenter
from .loading import Masks
from .on_mmdit import RefinedReader, RegionReader, color_masks, regions_work, vote_by
from .prompt_words import BACKGROUND


class BaselineCounter:
    """A whole system, one image at a time; its counts have one timestep, one layer (0) and one head."""

    layers: tuple[int, ...] = (0,)

    def __init__(self, system: Any, config: EvaluateConfig) -> None:
        self.system, self.config = system, config
        self.timesteps: tuple[int, ...] = (getattr(system.config, "timestep", 0),)
        self.sigmas: tuple[float, ...] = (self.timesteps[0] / 1000,)
        self.settings: Mapping[str, Any] = {"system": as_dict(system.config)}

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        of = self._named if self.config.task == "open-vocabulary" else self._regions
        # (matching, count, class) with the axes timestep, layer and head of length 1
        return [np.expand_dims(of(image, labels, classes), (1, 2, 3)).astype(np.int32) for image, labels in loaded]

    def _named(self, image: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        offer = offered(labels, classes, self.config.vocabulary)
        made = self.system.segment(image, [classes[number] for number in offer])
        return measure_labels(labels, np.array(offer)[made.labels.astype(np.int64)], len(classes)).counts[None]

    def _regions(self, image: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        regions = self.system.group(image).labels.astype(np.int64)
        return matched_counts(labels, regions, len(classes), merged_class(self.config.method, classes))


class RegionCounter:
    """DiffSeg's or DiffCut's steps on all layers and timesteps asked for of an MM-DiT."""

    def __init__(self, pipe: Pipeline, config: EvaluateConfig, baseline: DiffSegConfig | DiffCutConfig) -> None:
        if config.heads != "mean":
            raise ValueError(f"evaluate: method {config.method} takes the mean over heads; leave heads out")
        self.method = config.method
        self.reader = RegionReader(
            pipe,
            regions_work(baseline),
            chosen_layers(pipe, config.layers),
            config.chosen_timesteps,
            steps=config.steps,
            seed=config.seed,
            max_sequence_length=config.max_sequence_length,
        )
        self.timesteps, self.sigmas, self.layers = self.reader.timesteps, self.reader.sigmas, self.reader.layers
        self.settings: Mapping[str, Any] = {"baseline": as_dict(baseline)}

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        found = self.reader.regions([image for image, _ in loaded])
        return [
            np.stack([self._timestep(layers, number, labels, classes) for layers in found], 1).astype(np.int32)
            for number, (_, labels) in enumerate(loaded)
        ]

    def _timestep(
        self, layers: list[list[Tensor]], number: int, labels: np.ndarray, classes: tuple[str, ...]
    ) -> np.ndarray:
        """(matching, layer, head, count, class) of image ``number`` at one timestep."""
        maps = (label_map(layer[number], (labels.shape[0], labels.shape[1])).numpy() for layer in layers)
        background = merged_class(self.method, classes)
        return np.stack([matched_counts(labels, regions, len(classes), background)[:, None] for regions in maps], 1)


def merged_class(method: str, classes: Sequence[str]) -> int | None:
    """Number of the class to which DiffCut's protocol gives all regions without a class, None if there is none."""
    return classes.index(BACKGROUND) if method == "diffcut" and BACKGROUND in classes else None


def refined_counter(
    pipe: Pipeline, config: EvaluateConfig, baseline: RefineConfig, masks: Masks | None = None
) -> MapCounter:
    """Seg4Diff with a baseline's refinement; ``masks`` are for corrclip-vote, None takes connected parts of one color."""
    if (config.read, config.aggregate) != ("i2t", "layer"):
        raise ValueError(
            f"evaluate: refine {config.refine} is for I2T maps of single layers; leave read and aggregate out"
        )
    if config.heads != "mean":
        raise ValueError(f"evaluate: refine {config.refine} takes the mean over heads; leave heads out")
    if config.refine != "corrclip-vote" and not config.normalize.startswith("probs"):
        raise ValueError(f"evaluate: refine {config.refine} works on probabilities; leave normalize out")
    reader = refined_reader(pipe, baseline, config, chosen_layers(pipe, config.layers), config.chosen_timesteps)
    return MapCounter(pipe, config, reader, correction(config.refine, baseline, masks), {"baseline": as_dict(baseline)})


def refined_reader(
    pipe: Pipeline, baseline: RefineConfig, config: EvaluateConfig | SegmentConfig, layers: Any, timesteps: Any
) -> MapReader:
    """Reads the maps that ``config.refine`` asks for; for corrclip-vote these are the plain ones."""
    options: dict[str, Any] = {
        "seed": config.seed,
        "steps": config.steps,
        "max_sequence_length": config.max_sequence_length,
    }
    if config.refine == "corrclip-vote":
        normalize = config.normalize if isinstance(config, EvaluateConfig) else "probs"
        return MapReader(pipe, make_readout(normalize, "mean", "none"), layers, timesteps, **options)
    return RefinedReader(pipe, config.refine, baseline, layers, timesteps, **options)


def correction(refine: str, baseline: RefineConfig, masks: Masks | None) -> CorrectionOf | None:
    """The vote if ``refine`` is corrclip-vote, else None."""
    if refine != "corrclip-vote":
        return None
    return vote_by(masks or (lambda image: color_masks(image, baseline.regions)))


def refined_segmenter(
    pipe: Pipeline, layer: int | None, config: SegmentConfig, baseline: RefineConfig, masks: Masks | None = None
) -> OpenVocabularySegmenter:
    """Seg4Diff's segmenter with a baseline's refinement; ``layer`` None is the model's expert layer."""
    layer = expert_layer(pipe) if layer is None else layer
    reader = refined_reader(pipe, baseline, config, [layer], [config.chosen_timestep])
    return OpenVocabularySegmenter(pipe, layer, config, reader, correction(config.refine, baseline, masks))
