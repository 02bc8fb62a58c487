"""Pascal Context, validation, 59 classes: JPEGImages and trainval_merged.json, or SegmentationClassContext."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from ..storage.digests import digest
from ..storage.files import read_text
from .coco_rle import Annotation, decode_mask
from .labeled import LabeledImages, Labeling, Sample, folder_of, labeling, lines_of, listed, paired

_NAME = "context"


def read_context(root: Path) -> LabeledImages:
    """Read Pascal Context from trainval_merged.json or, if that is missing, from the label maps of SegmentationClassContext.

    ``root`` holds VOCdevkit/VOC2010, VOC2010, or JPEGImages.
    """
    images = folder_of(_NAME, root, "VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")
    merged = images.parent / "trainval_merged.json"
    return _from_annotations(images, merged) if merged.is_file() else _from_maps(images)


def _from_maps(images: Path) -> LabeledImages:
    """Label maps whose values 1 to 59 are the classes in order; 0 is ignored."""
    base, classes = images.parent, labeling(_NAME).classes
    labels = Labeling(classes, tuple((number + 1, number) for number in range(len(classes))), (0, 255))
    lists = base / "ImageSets" / "SegmentationContext" / "val.txt"
    if not lists.is_file():
        raise ValueError(f"{_NAME}: {base} holds neither trainval_merged.json nor {lists.relative_to(base)}")
    maps = base / "SegmentationClassContext"
    return paired(_NAME, labels, listed(lines_of(_NAME, lists), images, maps))


def _from_annotations(folder: Path, merged: Path) -> LabeledImages:
    try:
        content = json.loads(read_text(merged))
        images = [image for image in content["images"] if image["phase"] == "val"]
        masks: dict[int, list[Annotation]] = defaultdict(list)
        for annotation in content["annos_segmentation"]:
            masks[annotation["image_id"]].append(annotation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_NAME}: {merged} is not a Pascal-in-Detail file ({error!r})") from error
    samples = []
    for image in sorted(images, key=lambda image: image["file_name"]):
        file = folder / image["file_name"]
        if not file.is_file():
            raise ValueError(f"{_NAME}: {file} is missing; {merged.name} lists it")
        own = masks[image["image_id"]]
        source = (digest([json.dumps([image, own])]),)
        samples.append(Sample(file.stem, file, partial(_paint, image, own, merged), source))
    return LabeledImages(_NAME, labeling(_NAME).classes, samples)


def _paint(image: Annotation, masks: list[Annotation], source: Path) -> np.ndarray:
    """The label map of one image: its masks painted over each other in the file's order."""
    try:
        values = np.zeros((image["height"], image["width"]), np.int64)
        for mask in masks:
            values[decode_mask(mask["segmentation"])] = mask["category_id"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{source}: a mask of {image.get('file_name')} can't be decoded ({error})") from error
    return labeling(_NAME).apply(values, source)
