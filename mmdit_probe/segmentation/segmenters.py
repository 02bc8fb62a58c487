"""Images in, label maps out: by class names, or as regions in which an empty prompt's tokens specialize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..configs import EvaluateConfig, GroupConfig, SegmentConfig
from ..configs.single_image import Heads
from ..families import Pipeline
from ..pipelines.defaults import expert_layer
from ..pipelines.prompts import first_encoder
from ..storage.images import as_rgb, cropped
from .class_prompts import checked_classes, class_prompts
from .kl_merge import region_maps
from .label_map import label_map
from .layer_metrics import Correct
from .map_reader import MapReader
from .maps import make_readout
from .reading import Reading, ReadingReader
from .result import Segmentation

ImageLike = np.ndarray | Image.Image
CorrectionOf = Callable[[np.ndarray], Correct]
"""From an image (height, width, 3) to the correction of its label maps."""


class _Segmenter:
    def __init__(
        self, pipe: Pipeline, layer: int | None, config: Any, reader: MapReader, correct: CorrectionOf | None = None
    ) -> None:
        self.pipe, self.layer, self.config, self.reader, self.correct = pipe, layer, config, reader, correct

    @property
    def layer_name(self) -> int | str:
        """The layer's number, or which layers are put together."""
        if isinstance(self.reader, ReadingReader) and self.reader.reading.aggregate != "layer":
            return self.reader.name
        return self.reader.layers[0] if self.layer is None else self.layer

    def _images(self, images: Sequence[ImageLike]) -> list[np.ndarray]:
        return [cropped(as_rgb(image), self.config.crop) for image in images]

    def _segmentation(self, image: np.ndarray, maps: Tensor, classes: tuple[str, ...]) -> Segmentation:
        labels = label_map(maps, image.shape[:2]).numpy()
        labels = labels if self.correct is None else self.correct(image)(labels)
        settings = {"layer": self.layer_name, "timestep": self.config.chosen_timestep, "sigma": self.reader.sigmas[0]}
        kind = np.uint8 if len(classes) < 256 else np.int32
        return Segmentation(labels.astype(kind), maps.numpy(), classes, image, settings)


class OpenVocabularySegmenter(_Segmenter):
    """Labels each pixel with one of the given class names (Seg4Diff, section 4.2).

    The prompt is the names joined by spaces. A name's map is the mean over its tokens and over heads of one layer's I2T
    probabilities, and a pixel takes the name with the highest map. Names that do not fit into one prompt are split over
    several forward passes; the softmax of each pass is then over its own names only.

    Args:
        pipe: a pipeline whose family takes images as input.
        layer: layer number; None is the model's expert layer.
        config: timestep, crop, reading, refinement and seed.
        reader: replaces the maps that ``config`` describes by others, of one layer and timestep.
        correct: changes the label maps, which then need not be the argmax of the maps.
        layers: which layers ``config.aggregate`` puts together; None is all.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.datasets.scenes import scene
    >>> segment, drawn = OpenVocabularySegmenter(load_pipeline("tiny-sd3")), scene("test", 0)
    >>> found = segment(drawn.image, drawn.classes)
    >>> found.labels.shape, found.classes
    ((64, 64), ('sand', 'lava', 'square'))
    >>> truth = np.unique(drawn.labels, return_inverse=True)[1].reshape(64, 64)  # positions in drawn.classes
    >>> bool((found.labels == truth).mean() > 0.8)
    True
    """

    def __init__(
        self,
        pipe: Pipeline,
        layer: int | None = None,
        config: SegmentConfig | None = None,
        reader: MapReader | None = None,
        correct: CorrectionOf | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        config = config or SegmentConfig()
        if layer is None and config.aggregate == "layer":
            layer = expert_layer(pipe)
        several = layers if layer is None else [layer]
        reader = reader or reader_of(pipe, config, several, [config.chosen_timestep], "probs", "mean")
        super().__init__(pipe, layer, config, reader, correct)

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by at least one class name."""
        return self.batch([image], classes)[0]

    __call__ = segment

    def batch(self, images: Sequence[ImageLike], classes: Sequence[str]) -> list[Segmentation]:
        """Segment images of any sizes together by the same class names; one forward pass for each prompt."""
        names = checked_classes(classes)
        images = self._images(images)
        maps = [found[0, 0] for found in read_class_maps(self.reader, images, [names] * len(images))]
        return [self._segmentation(image, own, names) for image, own in zip(images, maps, strict=True)]


def reader_of(
    pipe: Pipeline,
    config: SegmentConfig | EvaluateConfig,
    layers: Sequence[int] | None,
    timesteps: Sequence[int],
    normalize: str,
    heads: Heads,
) -> MapReader:
    """Reads the maps that the settings ask for; `ValueError` if they contradict each other."""
    options: dict[str, Any] = {"steps": config.steps, "seed": config.seed}
    options["max_sequence_length"] = config.max_sequence_length
    reading = Reading(config.read, config.aggregate)
    if reading.plain:
        return MapReader(pipe, make_readout(normalize, heads, config.refine), layers, timesteps, **options)
    if heads != "mean" or config.refine != "none" or not normalize.startswith("probs"):
        raise ValueError(
            "read and aggregate are for unrefined maps averaged over heads; leave heads, refine and normalize scores out"
        )
    return ReadingReader(pipe, reading, layers, timesteps, **options)


def read_class_maps(
    reader: MapReader, images: Sequence[np.ndarray], vocabularies: Sequence[Sequence[str]]
) -> list[Tensor]:
    """For each image (timestep, layer, [head,] class, row, col): the mean map of the tokens of each of its names.

    ``vocabularies`` holds each image's class names. A forward pass takes as many prompts as there are images.
    """
    latents = reader.latents(images)
    prompts = [class_prompts(reader.pipe, names, reader.max_sequence_length) for names in vocabularies]
    jobs = [(number, prompt) for number, parts in enumerate(prompts) for prompt in parts]
    found: list[list[Tensor]] = [[] for _ in images]
    for start in range(0, len(jobs), len(images)):
        numbers, parts = zip(*jobs[start : start + len(images)], strict=True)
        for number, maps in zip(numbers, reader.read_classes(latents[list(numbers)], parts), strict=True):
            found[number].append(maps)
    return [torch.cat(parts, -3) for parts in found]  # prompts hold the names in order


class UnsupervisedSegmenter(_Segmenter):
    """Finds regions without words, from the tokens of an empty prompt (Seg4Diff, section 4.3).

    The I2T maps of one layer's start, end and padding tokens are merged greedily by their KL divergence, and a pixel takes
    the region with the highest map. As in the released code, only the first text encoder's positions are read (77 in SD3).

    Args:
        pipe: a pipeline whose family takes images as input.
        layer: layer number; None is the model's expert layer.
        config: threshold, variant, timestep, crop and seed.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.datasets.scenes import scene
    >>> found = UnsupervisedSegmenter(load_pipeline("tiny-sd3"))(scene("test", 0).image)
    >>> found.labels.shape, found.classes[0], round(sum(found.shares.values()), 6)
    ((64, 64), 'region 1', 1.0)
    """

    def __init__(self, pipe: Pipeline, layer: int | None = None, config: GroupConfig | None = None) -> None:
        config = config or GroupConfig()
        layer = expert_layer(pipe) if layer is None else layer
        reader = MapReader(
            pipe,
            make_readout("probs", "mean", "none"),
            [layer],
            [config.chosen_timestep],
            steps=config.steps,
            seed=config.seed,
            max_sequence_length=config.max_sequence_length,
        )
        super().__init__(pipe, layer, config, reader)

    def group(self, image: ImageLike) -> Segmentation:
        """Find the regions of one image, (height, width, 3) uint8 RGB or PIL."""
        return self.batch([image])[0]

    __call__ = group

    def batch(self, images: Sequence[ImageLike]) -> list[Segmentation]:
        """Find the regions of images of any sizes together."""
        images = self._images(images)
        maps = read_token_maps(self.reader, images)[0, :, 0]
        return [self._regions(image, own) for image, own in zip(images, maps, strict=True)]

    def _regions(self, image: np.ndarray, maps: Tensor) -> Segmentation:
        merged = merge(maps, self.config)
        return self._segmentation(image, merged, tuple(f"region {number + 1}" for number in range(len(merged))))


def read_token_maps(reader: MapReader, images: Sequence[np.ndarray]) -> Tensor:
    """(timestep, image, layer, [head,] token, row, col): maps of the empty prompt's tokens of the first text encoder."""
    prompts = ("",) * len(images)
    text = reader.features(prompts).text
    kept = np.flatnonzero(first_encoder(text)[0])
    maps = reader.read(reader.latents(images), prompts)
    return maps[..., kept[kept < maps.shape[-1]]].movedim(-1, -3)  # some models leave padding out


def merge(maps: Tensor, config: GroupConfig) -> Tensor:
    """(proposals, rows, cols) of one image's token maps."""
    return region_maps(maps, config.threshold, config.variant, config.min_max)
