"""iSeg: cross-attention refined again and again by sharpened self-attention (Sun et al. 2024, "iSeg: An Iterative
Refinement-based Framework for Training-free Segmentation").

One forward pass of Stable Diffusion 2.1 base with all classes in one prompt, the class words' embeddings multiplied by 1.6.
The cross-attention of all tokens at two resolutions is averaged inside clusters of pixels that attend alike to them; then
``A <- T A`` is repeated with the entropy-reduced self-attention T of one late block.

Deviations: the classes are those that are offered, by the data set's names and all of their tokens (the original asks a
tagger, TagCLIP, has names and chosen tokens of its own, and adds a list of background words to the prompt); in a U-Net
without Stable Diffusion 2.1's layers or heads, all layers of a resolution or all heads are read instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.reductions import i2t_maps
from ..configs.baselines import CROSS_HEADS, ISegConfig
from ..families import UNET_SELF, Pipeline, denoiser_of, unet_places
from ..probe.probe import Probe
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from ..utils.scaling import min_max
from .attention_rows import Rows, image_rows
from .map_clusters import cluster_means, cluster_seeds, map_clusters, mixed_tokens
from .prompt_words import spans_in, split_background, weighted
from .refinement import iterate, sharpened
from .results import ranged, result
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
        if not words:
            raise ValueError("iSeg: offer at least one class in addition to background")
        side = self.config.side
        with torch.no_grad():
            maps = self._maps(self.reader.latents(image), words)
            wide = ranged(ranged(maps, (side, side)), image.shape[:2])
        labels = self._with_background(wide, background).argmax(0).cpu().numpy()
        logits = self._with_background(min_max(maps, (1, 2)), background)
        return result(image, logits, names, {"method": "iseg"}, labels)

    def _with_background(self, maps: Tensor, place: int | None) -> Tensor:
        """Class maps with background's at its place, if it is offered."""
        if place is None:
            return maps
        constant = self.config.background
        own = (1 - maps.amax(0)) ** 2 if constant is None else torch.full_like(maps[0], constant)
        return torch.cat([maps[:place], own[None], maps[place:]])

    def _maps(self, latents: Tensor, words: Sequence[str]) -> Tensor:
        """(class, rows, cols) after the iteration, each at least 0 with the sum 1."""
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
        maps = class_maps(self._tokens(cross.found, latents, grid), spans, grid, config)
        return iterate(
            sharpened(self._rows(attention).kept_if_small(), config.entropy), maps, config.iterations
        ).T.unflatten(1, grid)

    def _rows(self, attention: JointAttention) -> Rows:
        """The late block's self-attention, mean over the chosen heads, or over all if the model has fewer."""
        heads = self.config.heads
        return image_rows(attention, None if heads is None or max(heads) >= attention.heads else heads)

    def _tokens(self, found: dict[int, JointAttention], latents: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(pixels, tokens): cross-attention of all resolutions that have a weight."""
        levels, weights = [], []
        for level, weight in enumerate(self.config.level_weights):
            layers = self._layers(at_level(found, latents, level)) if weight else []
            if layers:
                levels.append(self._mean(layers, level))
                weights.append(weight)
        if not levels:
            raise ValueError(
                "iSeg needs cross-attention at half or a quarter of the latents' sides; this model has none"
            )
        return mixed_tokens(levels, weights, grid)

    def _layers(self, layers: list[JointAttention]) -> list[JointAttention]:
        """Those of one resolution that are read: the ones named in ``cross_layers``, all if these are not all there."""
        places = unet_places(self.pipe)
        own = {
            (place.stage, place.number, place.attention): layer for layer in layers if (place := places[layer.layer])
        }
        named = self.config.cross_layers
        return [own[place] for place in named] if all(place in own for place in named) else layers

    def _mean(self, layers: Sequence[JointAttention], level: int) -> Tensor:
        """(tokens, rows, cols) of one resolution: mean over the chosen heads of all layers, or over all heads."""
        heads = self.config.cross_heads
        chosen = () if heads is None or level >= len(heads) else heads[level]
        grid = layers[0].layout.grid
        if chosen and sum(layer.heads for layer in layers) == CROSS_HEADS[level]:
            each = torch.cat([i2t_maps(layer, "all")[0] for layer in layers])  # heads of all layers, in their order
            return each[list(chosen)].mean(0).T.unflatten(1, grid)
        return torch.stack([i2t_maps(layer)[0] for layer in layers]).mean(0).T.unflatten(1, grid)


def class_maps(
    tokens: Float[Tensor, "pixels tokens"], spans: Sequence[Sequence[int]], grid: Sequence[int], config: ISegConfig
) -> Float[Tensor, "pixels classes"]:
    """Each class's mean over its tokens, averaged inside clusters of pixels unless ``config.clusters`` is 0."""
    if config.clusters:
        joined = map_clusters(tokens, cluster_seeds(grid, config.clusters), config.cluster_iterations)
        tokens = cluster_means(tokens, joined)
    return torch.stack([tokens[:, list(span)].mean(1) for span in spans], 1)
