"""The baselines' steps on an MM-DiT's own attention, which makes them comparable on one backbone.

Open vocabulary: Seg4Diff's class maps of a layer, refined by the same layer's I2I as DiffSegmenter and iSeg refine
cross-attention by self-attention; or the label map corrected by masks, as CorrCLIP does. Without words: DiffSeg's merging
of a layer's I2I, or DiffCut's cuts of its attention output, instead of the merging of token maps.

Deviations from the originals, in addition to the backbone: I2I is taken from the joint softmax, each row divided by its sum,
mean over all heads; the noise is the flow's at the timestep asked for; DiffSegmenter's min-max scaling of each class is left
to ``normalize``; iSeg's maps are not clustered first, and each class is scaled before its map is upsampled; every mask votes,
also the one with the lowest number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.reductions import i2t_maps
from ..configs import GroupConfig
from ..configs.baselines import DiffCutConfig, DiffSegConfig, RefineConfig
from ..evaluation.trivial import trivial_regions
from ..families import Pipeline, denoiser_of, family_of
from ..pipelines.defaults import expert_layer
from ..pipelines.forward import PromptEmbeddings
from ..readouts.base import Fields, Readout
from ..segmentation.class_prompts import ClassPrompt
from ..segmentation.label_map import class_maps
from ..segmentation.map_reader import MapReader
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import CorrectionOf, ImageLike
from ..storage.images import as_rgb, cropped
from ..utils.choices import check_choice
from ..utils.scaling import min_max
from .anchor_merging import merge_regions
from .attention_rows import image_rows
from .diffcut import cut_features
from .refinement import iterate, majority_vote, sharpened, smooth
from .results import region_result

Work = Callable[[JointAttention], list[Tensor]]
"""From one layer's attention to a tensor for each image of the batch."""


class ApplyPerLayer(Readout):
    """Calls ``work`` with each layer's attention and keeps the results in ``found``, by layer; nothing enters the record."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.found: dict[int, list[Tensor]] = {}

    def measure(self, attention: JointAttention) -> Fields:
        self.found[attention.layer] = [values.cpu() for values in self.work(attention)]
        return {}


class RefinedReader(MapReader):
    """Class maps of an MM-DiT's layers, refined by the layers' own I2I.

    Args:
        pipe: a pipeline whose family takes images as input.
        method: diffsegmenter or iseg.
        config: the refinement's settings.
        arguments: those of `MapReader` after its readout.
        options: keyword arguments of `MapReader`.
    """

    def __init__(self, pipe: Pipeline, method: str, config: RefineConfig, *arguments: Any, **options: Any) -> None:
        check_choice("refine", method, ("diffsegmenter", "iseg"))
        self.method, self.config = method, config
        self.readout = ApplyPerLayer(self._refined)
        self._prompts: Sequence[ClassPrompt] = ()
        super().__init__(pipe, self.readout, *arguments, **options)

    def read_classes(self, latents: Tensor, prompts: Sequence[ClassPrompt]) -> list[Tensor]:
        self._prompts = prompts
        features = self._weighted(self.features(tuple(prompt.prompt for prompt in prompts)))
        by_timestep = []
        with torch.no_grad():
            for sigma in self.sigmas:
                self.run(latents, sigma, features)
                by_timestep.append([torch.stack(layers) for layers in zip(*self._layers(), strict=True)])
        return [torch.stack(timesteps) for timesteps in zip(*by_timestep, strict=True)]

    def _layers(self) -> list[list[Tensor]]:
        return [self.readout.found[layer] for layer in self.layers]

    def _weighted(self, features: PromptEmbeddings) -> PromptEmbeddings:
        """iSeg: the class words' embeddings times ``word_scale``."""
        if self.method != "iseg":
            return features
        name = family_of(denoiser_of(self.pipe)).text_argument
        states = features.inputs[name]  # one tensor, or in some families a list of prompts of their own lengths
        own = [each.clone() for each in states]
        for each, prompt in zip(own, self._prompts, strict=True):
            for span in prompt.spans:
                each[list(span)] *= self.config.word_scale
        scaled = torch.stack(own) if isinstance(states, Tensor) else own
        return replace(features, inputs={**features.inputs, name: scaled})

    def _refined(self, attention: JointAttention) -> list[Tensor]:
        """(class, row, col) of each image of the batch."""
        grid = attention.layout.grid
        maps = i2t_maps(attention).unflatten(1, grid)
        return [
            self._refine(attention.batch_row(index), class_maps(maps[index], prompt.spans).flatten(1).T).T.unflatten(
                1, grid
            )
            for index, prompt in enumerate(self._prompts)
        ]

    def _refine(self, attention: JointAttention, maps: Tensor) -> Tensor:
        rows = image_rows(attention)
        if self.method == "diffsegmenter":
            return smooth(rows, maps, self.config.steps)
        return min_max(iterate(sharpened(rows, self.config.entropy), maps, self.config.iterations), 0)


def regions_work(config: DiffSegConfig | DiffCutConfig) -> Work:
    """DiffSeg's or DiffCut's steps, by the kind of settings: region maps (regions, rows, cols) of each image of the batch."""
    if isinstance(config, DiffSegConfig):
        return lambda attention: [_merged(attention.batch_row(index), config) for index in range(attention.batch)]
    return lambda attention: [cut_features(features, config) for features in image_features(attention)]


def _merged(attention: JointAttention, config: DiffSegConfig) -> Tensor:
    grid = attention.layout.grid
    if len(grid) != 2:
        raise ValueError(f"DiffSeg's merging works on images, this model's grid is {grid}")
    return merge_regions(image_rows(attention), grid, config.threshold, config.iterations, config.anchors)


def image_features(attention: JointAttention) -> Tensor:
    """(batch, width, rows, cols): the attention output at the image tokens, heads side by side."""
    output = attention.output[:, :, attention.layout.image_queries].float()
    return output.transpose(2, 3).flatten(1, 2).unflatten(2, attention.layout.grid)


class RegionReader(MapReader):
    """Regions of images from an MM-DiT's layers, with an empty prompt; takes `MapReader`'s arguments, ``work`` for a readout."""

    def __init__(self, pipe: Pipeline, work: Work, *arguments: Any, **options: Any) -> None:
        self.readout = ApplyPerLayer(work)
        super().__init__(pipe, self.readout, *arguments, **options)

    def regions(self, images: Sequence[np.ndarray]) -> list[list[list[Tensor]]]:
        """For each timestep, layer and image its region maps (regions, rows, cols)."""
        latents, features = self.latents(images), self.features(("",) * len(images))
        found = []
        with torch.no_grad():
            for sigma in self.sigmas:
                self.run(latents, sigma, features)
                found.append([self.readout.found[layer] for layer in self.layers])
        return found


def color_masks(image: np.ndarray, regions: int) -> np.ndarray:
    """Mask numbers (height, width) without a model: the connected parts of k-means on colors, ``regions`` clusters."""
    from scipy.ndimage import label

    colors = trivial_regions("k-means on colors", image, regions)
    parts, count = np.full(colors.shape, -1), 0
    for color in np.unique(colors):
        found, number = label(colors == color)
        parts = np.where(found > 0, found - 1 + count, parts)
        count += number
    return parts


def vote_by(masks: Callable[[np.ndarray], np.ndarray]) -> CorrectionOf:
    """CorrCLIP's correction of label maps by an image's masks; ``masks`` finds these once for all label maps of the image."""

    def of(image: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        found = masks(image)
        return lambda labels: majority_vote(labels, found)

    return of


class JointGrouper:
    """Finds regions in one layer of an MM-DiT by DiffSeg's or DiffCut's steps.

    Args:
        pipe: a pipeline whose family takes images as input.
        layer: layer number; None is the model's expert layer.
        baseline: DiffSeg's or DiffCut's settings, which choose the method.
        config: timestep, crop and seed.
    """

    def __init__(
        self,
        pipe: Pipeline,
        layer: int | None,
        baseline: DiffSegConfig | DiffCutConfig,
        config: GroupConfig | None = None,
    ) -> None:
        self.config = config or GroupConfig()
        self.layer = expert_layer(pipe) if layer is None else layer
        self.reader = RegionReader(
            pipe,
            regions_work(baseline),
            [self.layer],
            [self.config.chosen_timestep],
            steps=self.config.steps,
            seed=self.config.seed,
            max_sequence_length=self.config.max_sequence_length,
        )
        self.method = "diffseg" if isinstance(baseline, DiffSegConfig) else "diffcut"

    def group(self, image: ImageLike) -> Segmentation:
        """Find the regions of one image, (height, width, 3) uint8 RGB or PIL."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageLike]) -> list[Segmentation]:
        """Find the regions of images of any sizes together."""
        cuts = [cropped(as_rgb(image), self.config.crop) for image in images]
        settings = {
            "method": self.method,
            "layer": self.layer,
            "timestep": self.config.chosen_timestep,
            "sigma": self.reader.sigmas[0],
        }
        found = self.reader.regions(cuts)[0][0]
        return [region_result(image, maps, settings) for image, maps in zip(cuts, found, strict=True)]
