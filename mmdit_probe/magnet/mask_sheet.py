"""Example masks before and after MAGNET, to look at."""

from __future__ import annotations

import numpy as np

from ..configs import GenerationConfig, SegmentConfig
from ..datasets.labeled import LabeledImages
from ..families import Pipeline
from ..figures.magnet import MaskRow
from ..segmentation.palette import palette
from ..segmentation.render import colored, displayed
from ..segmentation.segmenters import OpenVocabularySegmenter
from .compare import before_and_after
from .examples import masks_of


def mask_rows(
    pipe: Pipeline, images: LabeledImages, layer: int, timestep: int, generation: GenerationConfig
) -> list[MaskRow]:
    """Each image with its true label map and one layer's label maps before and after; its prompt names the classes present.

    ``timestep`` is of ``generation.steps``. Images without a labeled pixel are left out.
    """
    config = SegmentConfig(
        timestep=timestep,
        steps=generation.steps,
        seed=generation.seed,
        max_sequence_length=generation.max_sequence_length,
    )
    segmenter = OpenVocabularySegmenter(pipe, layer, config)
    rows = []
    for sample in images.samples:
        image, labels = sample.load()
        masks, names = masks_of(labels, images.classes)
        if not names:
            continue
        truth = np.where(masks.any(0), masks.argmax(0), len(names))
        maps = {}
        for side, context in before_and_after(pipe).items():
            with context():
                maps[side] = segmenter(image, names).labels
        shown = {side: colored(displayed(labels), len(names)) for side, labels in {"truth": truth, **maps}.items()}
        rows.append(MaskRow(tuple(names), palette(len(names)), displayed(image), **shown))
    return rows
