"""DiffSegmenter: class maps from a U-Net's cross-attention, smoothed by its self-attention (Wang et al. 2023, "Diffusion
Model is Secretly a Training-free Open Vocabulary Semantic Segmenter").

One forward pass of Stable Diffusion 1.5 for each class, with a prompt of its own. The class's token maps, mean over heads
and layers of each resolution, are upsampled to one grid, scaled to [0, 1] by their own ranges, and added with fixed weights;
the sum is multiplied by the mean self-attention of the finest resolution. A class called "background" gets a constant value.

Deviations: each class is scaled to [0, 1] before its map is upsampled to the image, not after; no image caption follows the
class in the prompt unless ``caption`` makes one (the original asks BLIP); the weight of a word is applied to the difference
of its embeddings from the empty prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..attention.joint import JointAttention
from ..attention.reductions import i2t_maps
from ..configs.baselines import DiffSegmenterConfig
from ..families import UNET_SELF, Pipeline, denoiser_of
from ..probe.probe import Probe
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from ..utils.scaling import min_max
from .attention_rows import image_rows, mean_rows
from .prompt_words import spans_in, split_background, weighted
from .refinement import smooth
from .results import result
from .unet_reader import KeepAttention, UNetReader, at_level

SUB_TOKENS = 2
"""Tokens of a class word that count: its first one and, if it has more, the second."""


class DiffSegmenter:
    """Labels each pixel with one of the given class names.

    Args:
        pipe: a Stable Diffusion 1 or 2 pipeline, such as stable-diffusion-v1-5/stable-diffusion-v1-5.
        config: the released settings by default.
        caption: from an image to the text that follows the class in its prompts; None for no text.
    """

    def __init__(
        self,
        pipe: Pipeline,
        config: DiffSegmenterConfig | None = None,
        caption: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        self.pipe, self.config, self.caption = pipe, config or DiffSegmenterConfig(), caption
        self.reader = UNetReader(pipe, self.config.side, self.config.timestep, self.config.seed, sample=True)

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by class names."""
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
    """(rows, cols) on the latents' grid: the weighted sum over resolutions of the word's map, each scaled to [0, 1].

    Resolutions without cross-attention are left out.
    """
    grid = tuple(latents.shape[-2:])
    total = torch.zeros(grid, device=latents.device)
    for level, weight in enumerate(weights):
        layers = at_level(found, latents, level) if weight else []
        if layers:
            total += weight * min_max(upsampled(token_map(layers, span), grid))
    return total


def token_map(layers: Sequence[JointAttention], span: Sequence[int]) -> Tensor:
    """(rows, cols): I2T probabilities of some tokens, mean over the tokens, heads and layers of one resolution."""
    maps = torch.stack([i2t_maps(layer)[0][:, list(span)].mean(-1) for layer in layers]).mean(0)
    return maps.unflatten(0, layers[0].layout.grid)


def upsampled(grid_map: Tensor, size: tuple[int, ...]) -> Tensor:
    """A map (rows, cols) interpolated bilinearly to ``size``."""
    return functional.interpolate(grid_map[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def refined(grid_map: Tensor, layers: Sequence[JointAttention], steps: int) -> Tensor:
    """A map on the latents' grid smoothed by self-attention on that grid or a coarser one, then scaled to [0, 1]."""
    own = layers[0].layout.grid
    rows = mean_rows([image_rows(layer) for layer in layers])
    smaller = functional.adaptive_avg_pool2d(grid_map[None], (own[0], own[1]))[0]
    maps = smooth(rows, smaller.flatten()[:, None], steps)
    back = upsampled(maps.view(own), grid_map.shape)
    return min_max(back)
