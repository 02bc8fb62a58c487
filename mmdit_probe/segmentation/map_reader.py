"""Attention maps of images: encode, add noise, and one forward pass that stops after the last layer needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..configs import GenerationConfig
from ..families import Pipeline, image_input_of
from ..pipelines.defaults import text_length
from ..pipelines.forward import PromptEmbeddings, encode_images, encode_prompts, forward_noisy, noise_level
from ..pipelines.image_size import native_size
from ..probe.probe import Probe
from ..readouts.base import Readout
from ..storage.images import squared
from .class_prompts import ClassPrompt
from .label_map import class_maps

KEPT_PROMPTS = 16
"""Number of encoded prompts kept for further images."""


class MapReader:
    """Reads one readout's maps of images, for several layers and timesteps; encoded prompts are cached.

    Args:
        pipe: a pipeline whose family takes images as input, such as SD3 or Flux.1.
        readout: measures the maps, see `segmentation.maps`.
        layers: layer numbers, None for all; the forward pass stops after the last one.
        timesteps: counted from the clean end, of ``steps``: 8 of 28 is sigma 0.515 with SD3's shift.
        seed: of the noise, which is the same for every image, so that its maps do not depend on its batch.
        steps: number of sampling steps that the timesteps are counted in.
        max_sequence_length: T5 positions; None is the model's own default.
        field: name of the maps among the readout's fields.
    """

    def __init__(
        self,
        pipe: Pipeline,
        readout: Readout,
        layers: Sequence[int] | None,
        timesteps: Sequence[int],
        *,
        seed: int = 0,
        steps: int = GenerationConfig.steps,
        max_sequence_length: int | None = None,
        field: str = "i2t",
    ) -> None:
        self.pipe, self.seed, self.field = pipe, seed, field
        self.probe = Probe(pipe, [readout], layers=layers, stop_early=True)
        image_input_of(pipe)  # refuses a family that takes no images, before any work
        self.layers, self.timesteps = self.probe.layers, tuple(timesteps)
        self.sigmas = tuple(noise_level(pipe, timestep, steps) for timestep in timesteps)
        self.max_sequence_length = text_length(pipe, max_sequence_length)
        self.features = lru_cache(KEPT_PROMPTS)(self._features)

    @property
    def name(self) -> str:
        """The layers read, in words."""
        return f"layers {', '.join(map(str, self.layers))}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the maps depend on in addition to a command's settings."""
        return {}

    def _features(self, prompts: tuple[str, ...]) -> PromptEmbeddings:
        return encode_prompts(self.pipe, prompts, self.max_sequence_length)

    def latents(self, images: Sequence[np.ndarray]) -> Tensor:
        """Clean latents (images, channels, rows, cols) of (height, width, 3) uint8 images, stretched to the model's size."""
        return encode_images(self.pipe, [squared(image, native_size(self.pipe)) for image in images])

    def read_classes(self, latents: Tensor, prompts: Sequence[ClassPrompt]) -> list[Tensor]:
        """For each image of ``latents`` (timestep, layer, [head,] class, row, col): the maps of its prompt's names."""
        maps = self.read(latents, [prompt.prompt for prompt in prompts])
        return [class_maps(maps[:, number], prompt.spans) for number, prompt in enumerate(prompts)]

    def read(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """(timestep, image, layer, [head,] row, col, token) on the CPU, with one prompt for each image of ``latents``."""
        features = self.features(tuple(prompts))
        with torch.no_grad():
            return torch.cat([self._one(latents, sigma, features) for sigma in self.sigmas])

    def run(self, latents: Tensor, sigma: float, features: PromptEmbeddings) -> None:
        """One forward pass at noise level ``sigma`` under the probe."""
        with self.probe:
            forward_noisy(self.pipe, latents, sigma, features, self.seed, same_noise=True)

    def _one(self, latents: Tensor, sigma: float, features: PromptEmbeddings) -> Tensor:
        self.run(latents, sigma, features)
        return self.probe.fields()[self.field].values
