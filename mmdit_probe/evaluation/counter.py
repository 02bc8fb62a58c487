"""Counters: systems that label images, as `run_evaluation` asks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ..configs import EvaluateConfig
from ..families import Pipeline
from ..pipelines.layers import chosen_layers
from ..segmentation.map_reader import MapReader
from ..segmentation.segmenters import CorrectionOf, read_class_maps, read_token_maps, reader_of
from .counts import count_classes, count_regions, offered

Loaded = Sequence[tuple[np.ndarray, np.ndarray]]
"""Images (height, width, 3) uint8 with their label maps."""


@runtime_checkable
class Counter(Protocol):
    """A system that labels images: `count` gives each image's pixel counts (matching, timestep, layer, head, count, class).

    Attributes:
        timesteps: those that are read.
        sigmas: their noise levels.
        layers: those that are read.
        settings: what the counts depend on, in addition to the evaluation's own settings.
    """

    timesteps: tuple[int, ...]
    sigmas: tuple[float, ...]
    layers: tuple[int, ...]
    settings: Mapping[str, Any]

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]: ...


class MapCounter:
    """Seg4Diff: the maps of all layers and heads from one forward pass for each timestep.

    Args:
        pipe: a pipeline whose family takes images as input.
        config: the evaluation's settings.
        reader: replaces the maps that ``config`` describes by others.
        correct: changes the label maps.
        settings: what the counts depend on, in addition to ``config``.
    """

    def __init__(
        self,
        pipe: Pipeline,
        config: EvaluateConfig,
        reader: MapReader | None = None,
        correct: CorrectionOf | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.correct = config, correct
        self.reader = reader or _map_reader(pipe, config)
        self.settings: Mapping[str, Any] = {**(settings or {}), **self.reader.settings}
        self.timesteps, self.sigmas, self.layers = self.reader.timesteps, self.reader.sigmas, self.reader.layers

    def count(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        count = self._classes if self.config.task == "open-vocabulary" else self._regions
        return count(loaded, classes)

    def _classes(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        offers = [offered(labels, classes, self.config.vocabulary) for _, labels in loaded]
        names = [[classes[number] for number in offer] for offer in offers]
        found = read_class_maps(self.reader, [image for image, _ in loaded], names)
        return [
            count_classes(
                self._with_heads(maps),
                offer,
                labels,
                len(classes),
                self.config.normalize,
                None if self.correct is None else self.correct(image),
            )
            for (image, labels), offer, maps in zip(loaded, offers, found, strict=True)
        ]

    def _regions(self, loaded: Loaded, classes: tuple[str, ...]) -> list[np.ndarray]:
        maps = read_token_maps(self.reader, [image for image, _ in loaded])
        return [
            count_regions(self._with_heads(maps[:, number]), labels, len(classes), self.config)
            for number, (_, labels) in enumerate(loaded)
        ]

    def _with_heads(self, maps: Tensor) -> Tensor:
        """(timestep, layer, head, entry, row, col), with one head if it is the mean."""
        return maps[:, :, None] if self.config.heads == "mean" else maps


def _map_reader(pipe: Pipeline, config: EvaluateConfig) -> MapReader:
    layers = chosen_layers(pipe, config.layers)
    return reader_of(pipe, config, layers, config.chosen_timesteps, config.normalize, config.heads)
