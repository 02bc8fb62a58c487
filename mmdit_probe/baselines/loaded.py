"""A method on its loaded models: evaluates data sets, segments images by class names, finds regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..configs import EvaluateConfig, GroupConfig, SegmentConfig, as_dict
from ..evaluation.counter import Counter
from ..families import Pipeline, is_unet_pipeline
from ..segmentation.class_prompts import checked_classes, class_prompts
from ..segmentation.reading import Reading
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import OpenVocabularySegmenter, UnsupervisedSegmenter
from ..storage.images import cropped
from .counters import BaselineCounter, RegionCounter, refined_counter, refined_segmenter
from .loading import ClipParts, Masks, clip_system, load_clip_parts, load_masks, unet_system
from .on_mmdit import JointGrouper
from .registry import REFINERS, SEG4DIFF
from .selection import Selection, changed_settings, refuse_map_settings


class Labeler(NamedTuple):
    """Labels images.

    Attributes:
        label: from images (height, width, 3) uint8 of any sizes to their segmentations.
        settings: what the labels depend on in addition to the models.
        at_once: how many images it takes together, None for any number.
    """

    label: Callable[[Sequence[np.ndarray]], list[Segmentation]]
    settings: Mapping[str, Any]
    at_once: int | None = None


class LoadedMethod:
    """A `Selection` with its models.

    Args:
        selection: the method and what is asked of it.
        pipe: the pipeline, None for CLIP systems.
        parts: the models of a CLIP system.
        masks: finds the masks for refine corrclip-vote; None takes connected parts of one color.
    """

    def __init__(
        self,
        selection: Selection,
        pipe: Pipeline | None = None,
        parts: ClipParts | None = None,
        masks: Masks | None = None,
    ) -> None:
        self.selection, self.parts, self.masks = selection, parts, masks
        self._pipe = pipe

    @property
    def pipe(self) -> Pipeline:
        """The backbone's pipeline; `ValueError` for CLIP systems, which have none."""
        if self._pipe is None:
            raise ValueError(f"{self.selection.method} has no pipeline: its models are CLIP and what goes with it")
        return self._pipe

    @property
    def is_whole(self) -> bool:
        """Whether this is a system with a backbone of its own, without an MM-DiT's layers, heads and timesteps."""
        baseline = self.selection.baseline
        if baseline is None:
            return False
        return not baseline.joint or self._pipe is None or is_unet_pipeline(self._pipe)

    def system(self, dataset: str = "") -> Any:
        """The whole system with its settings for a data set."""
        config = self.selection.system_config(dataset)
        if self.parts is not None:
            return clip_system(self.selection.method, self.parts, config)
        return unet_system(self.selection.method, self.pipe, config)

    def counter(self, config: EvaluateConfig) -> Counter | None:
        """What `run_evaluation` takes for this method; None is plain Seg4Diff. ``config`` comes from `Selection.fill`."""
        selection = self.selection
        if self.is_whole:
            refuse_map_settings(selection.method, changed_settings(config))
            return BaselineCounter(self.system(config.dataset), config)
        if selection.method != SEG4DIFF:
            return RegionCounter(self.pipe, config, selection.system_config(config.dataset, joint=True))
        if selection.refine in REFINERS:
            return refined_counter(self.pipe, config, selection.refine_config(config.dataset), self.masks)
        return None

    def by_names(
        self,
        names: Sequence[str],
        layer: int | None = None,
        config: SegmentConfig | None = None,
        layers: Sequence[int] | None = None,
    ) -> Labeler:
        """Segments images by class names; ``layer`` None is the model's expert layer. Bad names are refused at once.

        ``layers`` are those that ``config.aggregate`` puts together, None for all.
        """
        classes, config = checked_classes(names), self.selection.fill(config or SegmentConfig())
        if self.is_whole:
            refuse_map_settings(self.selection.method, changed_settings(config))
            system = self._whole(layer)
            labeler = _one_by_one(
                lambda image: system.segment(image, classes), self.selection.method, system, config.crop
            )
            return labeler._replace(settings={**labeler.settings, "classes": classes})
        segmenter, more = self._segmenter(layer, config, layers)
        class_prompts(self.pipe, classes, segmenter.reader.max_sequence_length)  # refuses names that do not fit
        settings = {"layer": segmenter.layer_name, "classes": classes, **as_dict(config), **more}
        return Labeler(lambda images: segmenter.batch(images, classes), settings)

    def _segmenter(
        self, layer: int | None, config: SegmentConfig, layers: Sequence[int] | None
    ) -> tuple[OpenVocabularySegmenter, dict[str, Any]]:
        """Seg4Diff's segmenter, refined if asked for, and what its labels depend on in addition."""
        if self.selection.refine not in REFINERS:
            segmenter = OpenVocabularySegmenter(self.pipe, layer, config, layers=layers)
            return segmenter, segmenter.reader.settings
        if not Reading(config.read, config.aggregate).plain:
            raise ValueError(f"refine {config.refine} is for the I2T maps of one layer; leave read and aggregate out")
        refinement = self.selection.refine_config()
        segmenter = refined_segmenter(self.pipe, layer, config, refinement, self.masks)
        return segmenter, {"baseline": as_dict(refinement)}

    def regions(self, layer: int | None = None, config: GroupConfig | None = None) -> Labeler:
        """Finds the regions of images; ``layer`` None is the model's expert layer."""
        config, method = self.selection.fill(config or GroupConfig()), self.selection.method
        if self.is_whole:
            system = self._whole(layer)
            return _one_by_one(system.group, method, system, config.crop)
        if method == SEG4DIFF:
            segmenter = UnsupervisedSegmenter(self.pipe, layer, config)
            return Labeler(segmenter.batch, {"layer": segmenter.layer, "method": method, **as_dict(config)})
        own = self.selection.system_config(joint=True)
        grouper = JointGrouper(self.pipe, layer, own, config)
        settings = {"layer": grouper.layer, "method": method, **as_dict(config), "baseline": as_dict(own)}
        return Labeler(grouper.batch, settings)

    def _whole(self, layer: int | None) -> Any:
        refuse_map_settings(self.selection.method, () if layer is None else ("layer",))
        return self.system()


def _one_by_one(label: Callable[[np.ndarray], Segmentation], method: str, system: Any, crop: str) -> Labeler:
    """A whole system, which takes one image at a time."""
    settings = {"method": method, "crop": crop, "system": as_dict(system.config)}
    return Labeler(lambda images: [label(cropped(image, crop)) for image in images], settings, at_once=1)


def load_method(
    selection: Selection, model: str, load: Callable[[], Any], *, device: str = "cpu", dtype: str = "fp32"
) -> LoadedMethod:
    """Load a method's models; `ValueError` in one line if one is not available.

    Args:
        selection: the method and what is asked of it.
        model: hub id or folder of the backbone, as `Selection.source` names it.
        load: loads the backbone's pipeline; not called for CLIP systems.
        device: where CLIP, DINO and SAM run.
        dtype: fp32, bf16 or fp16, of CLIP and DINO.
    """
    baseline = selection.baseline
    if baseline is not None and baseline.kind == "clip":
        parts = load_clip_parts(
            selection.method, model, selection.dino_backbone, selection.sam, device=device, dtype=dtype
        )
        return LoadedMethod(selection, parts=parts)
    pipe = load()
    masks = None if selection.sam is None else load_masks(selection.sam, device)
    return LoadedMethod(selection, pipe, masks=masks)
