"""Pascal VOC 2012, validation: JPEGImages, SegmentationClass and ImageSets/Segmentation/val.txt."""

from __future__ import annotations

from pathlib import Path

from .labeled import LabeledImages, folder_of, labeling, lines_of, listed, paired


def read_voc(root: Path, name: str = "voc20") -> LabeledImages:
    """Read Pascal VOC; "voc20" ignores the background, "voc21" has it as the last class.

    ``root`` holds VOCdevkit/VOC2012, VOC2012, or JPEGImages.
    """
    images = folder_of(name, root, "VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages")
    base = images.parent
    stems = lines_of(name, base / "ImageSets" / "Segmentation" / "val.txt")
    return paired(name, labeling(name), listed(stems, images, base / "SegmentationClass"))
