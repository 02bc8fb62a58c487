"""iSeg: cross-attention refined again and again by sharpened self-attention (Sun et al. 2024, "iSeg: An Iterative
Refinement-based Framework for Training-free Segmentation").

One forward pass of Stable Diffusion 2.1 base with all classes in one prompt, the class words' embeddings multiplied by 1.6.
The classes' cross-attention at two resolutions is averaged inside clusters of pixels with similar self-attention; then
``A <- T A`` is repeated with the entropy-reduced self-attention T of one late block.

Deviations: the classes are those that are offered (the original asks a tagger, TagCLIP, and adds a list of background
words to the prompt); clusters are of T's rows; each class is scaled to [0, 1] before its map is upsampled to the image, and
not again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..configs.baselines import ISegConfig
from ..families import UNET_SELF, Pipeline, denoiser_of, unet_places
from ..probe.probe import Probe
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from ..utils.scaling import min_max
from .anchor_merging import anchors_of
from .attention_rows import Rows, image_rows
from .diffsegmenter import token_map, upsampled
from .prompt_words import spans_in, split_background, weighted
from .refinement import cluster_means, iterate, sharpened
from .results import result
from .unet_reader import KeepAttention, UNetReader, at_level


class ISeg:
    """Labels each pixel with one of the given class names.

    Args:
        pipe: a Stable Diffusion 1 or 2 pipeline, such as stabilityai/stable-diffusion-2-1-base.
        config: the released settings for VOC by default.
    """

    def __init__(self, pipe: Pipeline, config: ISegConfig | None = None) -> None:
        self.pipe, self.config = pipe, config or ISegConfig()
        self.reader = UNetReader(pipe, self.config.side, self.config.timestep, self.config.seed)
        self.layer = self._late_layer()

    def _late_layer(self) -> int:
        """The self-attention of the last up stage's block number ``self_attention``, or of its last block."""
        places = unet_places(self.pipe)
        last = max((place.number for place in places if place.stage == "up"), default=None)
        late = [layer for layer, place in enumerate(places) if (place.stage, place.number) == ("up", last)]
        if not late:
            raise ValueError("iSeg needs attention in the U-Net's decoder; this model has none there")
        return next((layer for layer in late if places[layer].attention == self.config.self_attention), late[-1])

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by class names."""
        image, names = as_rgb(image), checked_classes(classes)
        words, background = split_background(names)
        with torch.no_grad():
            maps = list(self._maps(self.reader.latents(image), words)) if words else []
        if background is not None:
            maps.insert(background, self._background(maps, background))
        return result(image, torch.stack(maps), names, {"method": "iseg"})

    def _background(self, maps: list[Tensor], place: int) -> Tensor:
        if not maps:
            raise ValueError("iSeg: offer at least one class in addition to background")
        if self.config.background is not None:
            return torch.full_like(maps[0], self.config.background)
        return (1 - torch.stack(maps).amax(0)) ** 2

    def _maps(self, latents: Tensor, words: Sequence[str]) -> Tensor:
        """(class, rows, cols), each in [0, 1]."""
        config = self.config
        prompt = config.prompt.format(" and ".join(words))
        spans = spans_in(self.pipe, prompt, words)
        states, more = self.reader.encode(prompt)
        cross, own = KeepAttention(), KeepAttention()
        with (
            Probe(denoiser_of(self.pipe), [cross]),
            Probe(denoiser_of(self.pipe), [own], layers=[self.layer], family=UNET_SELF),
        ):
            self.reader.run(latents, (weighted(states, spans, config.word_scale), more))
        attention = own.found[self.layer]
        grid = attention.layout.grid
        maps = torch.stack([self._cross(cross.found, latents, span, grid) for span in spans], -1).flatten(0, 1)
        rows = self._rows(attention).kept_if_small()
        maps = cluster_means(rows, maps, anchors_of(grid, isqrt(config.seeds)), config.cluster_iterations)
        maps = iterate(sharpened(rows, config.entropy), maps, config.iterations)
        return min_max(maps, 0).T.unflatten(1, grid)

    def _rows(self, attention: JointAttention) -> Rows:
        """The late block's self-attention, mean over the chosen heads, or over all if the model has fewer."""
        heads = self.config.heads
        return image_rows(attention, None if heads is None or max(heads) >= attention.heads else heads)

    def _cross(
        self, found: dict[int, JointAttention], latents: Tensor, span: Sequence[int], grid: tuple[int, ...]
    ) -> Tensor:
        """(rows, cols): the weighted sum over resolutions of the word's map, each divided by its sum."""
        total = torch.zeros(grid, device=latents.device)
        for level, weight in enumerate(self.config.level_weights):
            layers = at_level(found, latents, level) if weight else []
            if layers:
                finer = upsampled(token_map(layers, span), grid)
                total += weight * finer / finer.sum()
        return total
