"""DiffSegmenter: class maps from a U-Net's cross-attention, smoothed by its self-attention (Wang et al. 2023, "Diffusion
Model is Secretly a Training-free Open Vocabulary Semantic Segmenter").

One pass of Stable Diffusion 1.5 for each class, with a prompt of its own; the class's token maps, mean over heads and
layers of each resolution, are brought to one grid, each to [0, 1] by its own range, and added up by fixed weights; the sum
is multiplied by the mean self-attention of the finest resolution. A class called "background" gets a constant score.

Deviations: each class is brought to [0, 1] before the maps are upsampled to the image, not after; no image caption
follows the class in the prompt unless ``caption`` makes one (the original asks BLIP); the weight of a word is applied to
its features' difference from the empty prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..attention.joint import JointAttention
from ..attention.reductions import i2t_maps
from ..configs.baselines import DiffSegmenterConfig
from ..families import UNET_SELF, denoiser_of
from ..probe.probe import Probe
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from .attention_rows import image_rows, mean_rows
from .prompt_words import spans_in, split_background, weighted
from .refinement import min_max, smooth
from .results import result
from .unet_reader import KeepAttention, UNetReader, at_level

SUB_TOKENS = 2
"""A class word counts with its first token and, where it is split, the next one."""


class DiffSegmenter:
    """Labels each pixel with one of the given class names.

    Args:
        pipe: a Stable Diffusion 1 or 2 pipeline, such as stable-diffusion-v1-5/stable-diffusion-v1-5.
        config: the released settings by default.
        caption: what to write behind the class in an image's prompts, if anything.
    """

    def __init__(
        self,
        pipe: Any,
        config: DiffSegmenterConfig | None = None,
        caption: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        self.pipe, self.config, self.caption = pipe, config or DiffSegmenterConfig(), caption
        self.reader = UNetReader(pipe, self.config.side, self.config.timestep, self.config.seed, sample=True)

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """One image, (height, width, 3) uint8 RGB or PIL."""
        image, names = as_rgb(image), checked_classes(classes)
        words, background = split_background(names)
        caption = self.caption(image) if self.caption is not None else ""
        with torch.no_grad():
            latents = self.reader.latents(image)
            maps = [self._map(latents, word, caption) for word in words]
            grid = tuple(latents.shape[-2:])
        if background is not None:
            maps.insert(background, torch.full(grid, self.config.background, device=latents.device))
        return result(image, torch.stack(maps), names, {"method": "diffsegmenter"})

    def _map(self, latents: Tensor, word: str, caption: str) -> Tensor:
        """(rows, cols) in [0, 1] of one class."""
        prompt = " ".join([self.config.prompt.format(word), caption]).strip()
        span = spans_in(self.pipe, prompt, [word])[0]
        (states, more), (empty, _) = self.reader.encode(prompt), self.reader.encode("")
        cross, own = KeepAttention(), KeepAttention()
        with Probe(denoiser_of(self.pipe), [cross]), Probe(denoiser_of(self.pipe), [own], family=UNET_SELF):
            self.reader.run(latents, (weighted(states, [span], self.config.word_weight, empty), more))
        maps = word_map(cross.found, latents, span[:SUB_TOKENS], self.config.level_weights)
        finest = at_level(own.found, latents, 0) or at_level(own.found, latents, 1)
        return refined(maps, finest, self.config.refine_steps)


def word_map(
    found: dict[int, JointAttention], latents: Tensor, span: Sequence[int], weights: Sequence[float]
) -> Tensor:
    """(rows, cols) on the latents' grid: the word's map at each resolution, in [0, 1], times its weight, added up.

    Resolutions that the model has no cross-attention at are left out.
    """
    grid = tuple(latents.shape[-2:])
    total = torch.zeros(grid, device=latents.device)
    for level, weight in enumerate(weights):
        layers = at_level(found, latents, level) if weight else []
        if layers:
            total += weight * min_max(upsampled(token_map(layers, span), grid).flatten()[:, None]).view(grid)
    return total


def token_map(layers: Sequence[JointAttention], span: Sequence[int]) -> Tensor:
    """(rows, cols): I2T of some tokens, mean over tokens, heads and layers of one resolution."""
    maps = torch.stack([i2t_maps(layer)[0][:, list(span)].mean(-1) for layer in layers]).mean(0)
    return maps.unflatten(0, layers[0].layout.grid)


def upsampled(grid_map: Tensor, size: tuple[int, ...]) -> Tensor:
    """(rows, cols) brought to ``size`` bilinearly."""
    return functional.interpolate(grid_map[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def refined(grid_map: Tensor, layers: Sequence[JointAttention], steps: int) -> Tensor:
    """A map on the latents' grid smoothed by self-attention of that grid or a coarser one, then brought to [0, 1]."""
    own = layers[0].layout.grid
    rows = mean_rows([image_rows(layer) for layer in layers])
    smaller = functional.adaptive_avg_pool2d(grid_map[None], (own[0], own[1]))[0]
    maps = smooth(rows, smaller.flatten()[:, None], steps)
    back = upsampled(maps.view(own), grid_map.shape)
    return min_max(back.flatten()[:, None]).view(grid_map.shape)
