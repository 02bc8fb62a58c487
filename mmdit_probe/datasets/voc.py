"""Pascal VOC 2012, validation: JPEGImages, SegmentationClass and ImageSets/Segmentation/val.txt."""

from __future__ import annotations

from pathlib import Path

from .labelled import LabelledPictures, folder_of, labelling, lines_of, paired


def read_voc(root: Path, name: str = "voc20") -> LabelledPictures:
    """voc20 ignores the background, voc21 has it as the last class.

    ``root`` is the folder that holds VOCdevkit/VOC2012, VOC2012, or JPEGImages itself.
    """
    pictures = folder_of(name, root, "VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages")
    base = pictures.parent
    stems = lines_of(name, base / "ImageSets" / "Segmentation" / "val.txt")
    pairs = ((s, pictures / f"{s}.jpg", base / "SegmentationClass" / f"{s}.png") for s in stems)
    return paired(name, labelling(name), pairs)
