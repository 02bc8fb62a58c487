"""DiffSegmenter: class maps from a U-Net's cross-attention, smoothed by its self-attention (Wang et al. 2023, "Diffusion
Model is Secretly a Training-free Open Vocabulary Semantic Segmenter").

One forward pass of Stable Diffusion 1.5 for each class, with a prompt of its own. The map of the class's last token, and of
the next word if it ends in "ing", mean over heads and layers of each resolution, is upsampled to one grid, scaled to [0, 1]
by its own range, and added with fixed weights; the sum is multiplied by the mean self-attention of the finest resolution,
upsampled to the image and scaled again. A class called "background" gets a constant value.

Deviations: the classes are those that are offered, by the data set's names (the original asks a tagger and has names of its
own); no image caption follows the class in the prompt unless ``caption`` makes one (the original asks BLIP); the weight of
a word is applied to the difference of its embeddings from the empty prompt's; the noise is drawn by this toolkit.
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
from .prompt_words import ing_token, spans_in, split_background, weighted
from .refinement import smooth
from .results import ranged, result
from .unet_reader import KeepAttention, UNetReader, at_level


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
            wide = [ranged(own[None], image.shape[:2])[0] for own in maps]
        if background is not None:
            for listed, size in ((maps, grid), (wide, image.shape[:2])):
                listed.insert(background, torch.full(size, self.config.background, device=latents.device))
        labels = torch.stack(wide).argmax(0).cpu().numpy()
        return result(image, torch.stack(maps), names, {"method": "diffsegmenter"}, labels)

    def _map(self, latents: Tensor, word: str, caption: str) -> Tensor:
        """(rows, cols) in [0, 1] of one class."""
        prompt = " ".join([self.config.prompt.format(word), caption]).strip()
        span = spans_in(self.pipe, prompt, [word])[0]
        tokens = [span[-1], *ing_token(self.pipe, prompt, word)]
        (states, more), (empty, _) = self.reader.encode(prompt), self.reader.encode("")
        cross, own = KeepAttention(), KeepAttention()
        with Probe(denoiser_of(self.pipe), [cross]), Probe(denoiser_of(self.pipe), [own], family=UNET_SELF):
            self.reader.run(latents, (weighted(states, [span], self.config.word_weight, empty), more))
        maps = word_map(cross.found, latents, tokens, self.config.level_weights)
        finest = at_level(own.found, latents, 0) or at_level(own.found, latents, 1)
        return refined(maps, finest, self.config.refine_steps)


def word_map(
    found: dict[int, JointAttention], latents: Tensor, span: Sequence[int], weights: Sequence[float]
) -> Tensor:
    """(rows, cols) on the latents' grid: the weighted sum over resolutions of the word's map, each scaled to [0, 1].

    Resolutions without cross-attention are left out.
    """
    by_level = {level: at_level(found, latents, level) for level, weight in enumerate(weights) if weight}
    maps = {level: token_map(layers, span) for level, layers in by_level.items() if layers}
    return weighted_sum(list(maps.values()), [weights[level] for level in maps], tuple(latents.shape[-2:]))


def weighted_sum(maps: Sequence[Tensor], weights: Sequence[float], grid: Sequence[int]) -> Tensor:
    """(rows, cols) on ``grid``: the maps upsampled, each scaled to [0, 1] by its own range there, times its weight, added."""
    if not maps:
        raise ValueError("DiffSegmenter needs cross-attention at a resolution that has a weight; this model has none")
    return torch.stack([weight * min_max(upsampled(own, grid)) for own, weight in zip(maps, weights, strict=True)]).sum(
        0
    )


def token_map(layers: Sequence[JointAttention], span: Sequence[int]) -> Tensor:
    """(rows, cols): I2T probabilities of some tokens, mean over the tokens, heads and layers of one resolution."""
    maps = torch.stack([i2t_maps(layer)[0][:, list(span)].mean(-1) for layer in layers]).mean(0)
    return maps.unflatten(0, layers[0].layout.grid)


def upsampled(grid_map: Tensor, size: Sequence[int]) -> Tensor:
    """A map (rows, cols) interpolated bilinearly to ``size``."""
    return functional.interpolate(grid_map[None, None], size=list(size), mode="bilinear", align_corners=False)[0, 0]


def refined(grid_map: Tensor, layers: Sequence[JointAttention], steps: int) -> Tensor:
    """A map on the latents' grid smoothed by self-attention on that grid or a coarser one, then scaled to [0, 1]."""
    own = layers[0].layout.grid
    rows = mean_rows([image_rows(layer) for layer in layers])
    smaller = functional.adaptive_avg_pool2d(grid_map[None], (own[0], own[1]))[0]
    maps = smooth(rows, smaller.flatten()[:, None], steps)
    back = upsampled(maps.view(own), grid_map.shape)
    return min_max(back)
