"""The baselines' steps on an MM-DiT's own attention, so that they can be compared on one backbone.

Open vocabulary: Seg4Diff's class maps of a layer, refined by the same layer's I2I as DiffSegmenter or iSeg refine
cross-attention by self-attention, or the label map corrected by masks as CorrCLIP does. Without words: DiffSeg's merging
of a layer's I2I, and DiffCut's cuts of its attention output, in place of the merging of token maps.

Deviations from the originals, beside the backbone: I2I is the joint softmax's with rows brought to sum 1, mean over all
heads; noise is the flow's at the timestep asked for. DiffSegmenter's min-max of each class is left to ``normalize``.
iSeg's maps are not clustered first.
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
from ..families import denoiser_of, family_of
from ..pipelines.defaults import expert_layer
from ..pipelines.forward import PromptEmbeddings
from ..readouts.base import Fields, Readout
from ..segmentation.class_prompts import ClassPrompt
from ..segmentation.label_map import class_maps
from ..segmentation.map_reader import MapReader
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import CorrectionOf, ImageLike
from ..storage.images import as_rgb, cropped
from .anchor_merging import merge_regions
from .attention_rows import image_rows
from .diffcut import cut_features
from .refinement import iterate, majority_vote, min_max, sharpened, smooth
from .results import region_result

Work = Callable[[JointAttention], list[Tensor]]
"""From one layer's attention to a tensor for each batch row."""


class ApplyPerLayer(Readout):
    """Hands each layer's attention to ``work`` and keeps what it returns in ``found``; nothing enters the record."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.found: dict[int, list[Tensor]] = {}

    def measure(self, attention: JointAttention) -> Fields:
        self.found[attention.layer] = [values.cpu() for values in self.work(attention)]
        return {}


class RefinedReader(MapReader):
    """Class maps of an MM-DiT's layers, refined by their own I2I; ``method`` is diffsegmenter or iseg.

    The arguments are those of `MapReader`, with the refinement's settings for a readout.
    """

    def __init__(self, pipe: Any, method: str, config: RefineConfig, *arguments: Any, **options: Any) -> None:
        if method not in ("diffsegmenter", "iseg"):
            raise ValueError(f"refine must be diffsegmenter or iseg here, got {method!r}")
        self.method, self.config = method, config
        self.readout = ApplyPerLayer(self._refined)
        self._prompts: Sequence[ClassPrompt] = ()
        super().__init__(pipe, self.readout, *arguments, **options)

    def read_classes(self, latents: Tensor, prompts: Sequence[ClassPrompt]) -> list[Tensor]:
        self._prompts = prompts
        features = self._weighted(self.features(tuple(prompt.prompt for prompt in prompts)))
        views = []
        with torch.no_grad():
            for sigma in self.sigmas:
                self.run(latents, sigma, features)
                views.append([torch.stack(rows) for rows in zip(*self._layers(), strict=True)])
        return [torch.stack(steps) for steps in zip(*views, strict=True)]

    def _layers(self) -> list[list[Tensor]]:
        return [self.readout.found[layer] for layer in self.layers]

    def _weighted(self, features: PromptEmbeddings) -> PromptEmbeddings:
        """iSeg: the class words' features times ``word_scale``."""
        if self.method != "iseg":
            return features
        name = family_of(denoiser_of(self.pipe)).text_argument
        states = features.inputs[name]  # one tensor, or in some families a list of prompts of their own lengths
        rows = [row.clone() for row in states]
        for row, prompt in zip(rows, self._prompts, strict=True):
            for span in prompt.spans:
                row[list(span)] *= self.config.word_scale
        scaled = torch.stack(rows) if isinstance(states, Tensor) else rows
        return replace(features, inputs={**features.inputs, name: scaled})

    def _refined(self, attention: JointAttention) -> list[Tensor]:
        """(class, row, col) of each batch row."""
        grid = attention.layout.grid
        maps = i2t_maps(attention).unflatten(1, grid)
        return [
            self._refine(attention.batch_row(row), class_maps(maps[row], prompt.spans).flatten(1).T).T.unflatten(
                1, grid
            )
            for row, prompt in enumerate(self._prompts)
        ]

    def _refine(self, attention: JointAttention, maps: Tensor) -> Tensor:
        rows = image_rows(attention)
        if self.method == "diffsegmenter":
            return smooth(rows, maps, self.config.steps)
        return min_max(iterate(sharpened(rows, len(maps), self.config.entropy), maps, self.config.iterations))


def regions_work(config: DiffSegConfig | DiffCutConfig) -> Work:
    """DiffSeg or DiffCut by its settings: region maps (regions, rows, cols) of each batch row of one layer."""
    if isinstance(config, DiffSegConfig):
        return lambda attention: [_merged(attention.batch_row(row), config) for row in range(attention.batch)]
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
    """Regions of images from an MM-DiT's layers, with an empty prompt; the arguments are those of `MapReader`."""

    def __init__(self, pipe: Any, work: Work, *arguments: Any, **options: Any) -> None:
        self.readout = ApplyPerLayer(work)
        super().__init__(pipe, self.readout, *arguments, **options)

    def regions(self, images: Sequence[np.ndarray]) -> list[list[list[Tensor]]]:
        """For each timestep, layer and image (regions, rows, cols)."""
        latents, features = self.latents(images), self.features(("",) * len(images))
        views = []
        with torch.no_grad():
            for sigma in self.sigmas:
                self.run(latents, sigma, features)
                views.append([self.readout.found[layer] for layer in self.layers])
        return views


def color_masks(image: np.ndarray, regions: int) -> np.ndarray:
    """Masks (height, width) without any model: the connected parts of k-means on colors."""
    from scipy.ndimage import label

    colors = trivial_regions("k-means on colors", image, regions)
    parts, count = np.full(colors.shape, -1), 0
    for color in np.unique(colors):
        found, number = label(colors == color)
        parts = np.where(found > 0, found - 1 + count, parts)
        count += number
    return parts


def vote_by(masks: Callable[[np.ndarray], np.ndarray]) -> CorrectionOf:
    """CorrCLIP's correction of an image's label maps by the masks that ``masks`` finds in it, once for all of them."""

    def of(image: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        found = masks(image)
        return lambda labels: majority_vote(labels, found)

    return of


class JointGrouper:
    """Finds regions from one layer of an MM-DiT by DiffSeg's or DiffCut's steps.

    Args:
        pipe: a Stable Diffusion 3 pipeline.
        layer: None takes the model's expert layer.
        baseline: whose settings they are chooses the method.
        config: timestep, crop and seed.
    """

    def __init__(
        self, pipe: Any, layer: int | None, baseline: DiffSegConfig | DiffCutConfig, config: GroupConfig | None = None
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
        """One image, (height, width, 3) uint8 RGB or PIL."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageLike]) -> list[Segmentation]:
        """Images of any sizes together."""
        cuts = [cropped(as_rgb(image), self.config.crop) for image in images]
        settings = {
            "method": self.method,
            "layer": self.layer,
            "timestep": self.config.chosen_timestep,
            "sigma": self.reader.sigmas[0],
        }
        found = self.reader.regions(cuts)[0][0]
        return [region_result(image, maps, settings) for image, maps in zip(cuts, found, strict=True)]
