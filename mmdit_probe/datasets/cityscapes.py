"""Cityscapes, fine annotations, 19 or 27 classes, validation: leftImg8bit/val and gtFine/val, by city."""

from __future__ import annotations

from pathlib import Path

from .labeled import LabeledImages, folder_of, labeling, paired


def read_cityscapes(root: Path, name: str = "cityscapes") -> LabeledImages:
    """Read Cityscapes; ``root`` holds leftImg8bit and gtFine.

    "cityscapes" has the benchmark's 19 classes, "cityscapes-27" the label ids 7 to 33, on which DiffSeg and DiffCut are
    evaluated. All other label ids are ignored.
    """
    images = folder_of(name, root, "leftImg8bit/val")
    files = sorted(file for file in images.glob("*/*_leftImg8bit.png") if not file.name.startswith("."))
    stems = [(file.name.removesuffix("_leftImg8bit.png"), file) for file in files]
    maps = root / "gtFine" / "val"
    pairs = ((stem, file, maps / file.parent.name / f"{stem}_gtFine_labelIds.png") for stem, file in stems)
    return paired(name, labeling(name), pairs)
