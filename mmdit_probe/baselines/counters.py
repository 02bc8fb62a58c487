"""Baselines as counters of an evaluation: the same images, classes, scoring and resuming as Seg4Diff's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..configs import EvaluateConfig, SegmentConfig, as_dict
from ..configs.baselines import DiffCutConfig, DiffSegConfig, RefineConfig
from ..evaluation.counts import matched_counts, named_counts, offered
from ..evaluation.run import Loaded, MapCounter
from ..segmentation.label_map import label_map
from ..segmentation.map_reader import MapReader
from ..segmentation.maps import make_readout
from ..segmentation.segmenters import Correct, OpenVocabularySegmenter
from .loading import Masks
from .on_mmdit import RefinedReader, RegionReader, color_masks, regions_work, vote_by


class BaselineCounter:
    """A whole system, one image at a time; its single view has the layer 0."""

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
        return named_counts(labels, offer, made.labels.astype(np.int64), len(classes))

    def _regions(self, image: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        return matched_counts(labels, self.system.group(image).labels.astype(np.int64), len(classes))


class RegionCounter:
    """DiffSeg's or DiffCut's steps on an MM-DiT, all layers and timesteps asked for."""

    def __init__(self, pipe: Any, config: EvaluateConfig, baseline: DiffSegConfig | DiffCutConfig) -> None:
        if config.heads != "mean":
            raise ValueError(f"evaluate: --method {config.method} takes the mean over heads; leave --heads as it is")
        self.reader = RegionReader(
            pipe,
            regions_work(baseline),
            config.layers,
            config.timesteps,
            seed=config.seed,
            max_sequence_length=config.max_sequence_length,
        )
        self.timesteps, self.sigmas, self.layers = self.reader.timesteps, self.reader.sigmas, self.reader.layers
        self.settings: Mapping[str, Any] = {"baseline": as_dict(baseline)}

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        views = self.reader.regions([image for image, _ in loaded])
        return [
            np.stack(
                [
                    np.stack([self._one(layer[row], labels, classes)[:, None] for layer in layers], 1)
                    for layers in views
                ],
                1,
            ).astype(np.int32)
            for row, (_, labels) in enumerate(loaded)
        ]

    @staticmethod
    def _one(maps: Any, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
        return matched_counts(labels, label_map(maps, labels.shape).numpy(), len(classes))


def joint_config(baseline: Any, threshold: float) -> Any:
    """DiffSeg's or DiffCut's settings with the threshold that was asked for."""
    return replace(baseline, **{"threshold" if isinstance(baseline, DiffSegConfig) else "tau": threshold})


def refined_counter(
    pipe: Any, config: EvaluateConfig, baseline: RefineConfig, masks: Masks | None = None
) -> MapCounter:
    """Seg4Diff with a baseline's refinement; ``masks`` serve the vote, k-means on colors without them."""
    if config.heads != "mean":
        raise ValueError(f"evaluate: refine {config.refine} takes the mean over heads; leave --heads as it is")
    if config.refine != "corrclip-vote" and not config.normalize.startswith("probs"):
        raise ValueError(f"evaluate: refine {config.refine} works on probabilities; leave --normalize as it is")
    reader = refined_reader(pipe, baseline, config, config.layers, config.timesteps)
    return MapCounter(pipe, config, reader, correction(config.refine, baseline, masks), {"baseline": as_dict(baseline)})


def refined_reader(
    pipe: Any, baseline: RefineConfig, config: EvaluateConfig | SegmentConfig, layers: Any, timesteps: Any
) -> MapReader:
    """Reads maps as ``config.refine`` asks; for the vote they are the plain ones."""
    options: dict[str, Any] = {"seed": config.seed, "max_sequence_length": config.max_sequence_length}
    if config.refine == "corrclip-vote":
        normalize = config.normalize if isinstance(config, EvaluateConfig) else "probs"
        return MapReader(pipe, make_readout(normalize, "mean", "none"), layers, timesteps, **options)
    return RefinedReader(pipe, config.refine, baseline, layers, timesteps, **options)


def correction(refine: str, baseline: RefineConfig, masks: Masks | None) -> Correct | None:
    """The vote, where it is asked for."""
    if refine != "corrclip-vote":
        return None
    return vote_by(masks or (lambda image: color_masks(image, baseline.regions)))


def refined_segmenter(
    pipe: Any, layer: int, config: SegmentConfig, baseline: RefineConfig, masks: Masks | None = None
) -> OpenVocabularySegmenter:
    """Seg4Diff's segmenter with a baseline's refinement."""
    reader = refined_reader(pipe, baseline, config, [layer], [config.timestep])
    return OpenVocabularySegmenter(pipe, layer, config, reader, correction(config.refine, baseline, masks))
