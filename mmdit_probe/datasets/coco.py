"""COCO 2017, validation, with the label maps of COCO-Stuff (stuffthingmaps)."""

from __future__ import annotations

from pathlib import Path

from .labelled import LabelledPictures, folder_of, labelling, paired


def read_coco(root: Path, name: str) -> LabelledPictures:
    """coco-object has 80 things, coco-object-background the background as the first class, coco-stuff-27 coarse classes.

    ``root`` holds val2017 or images/val2017, and stuffthingmaps/val2017 (or annotations/val2017).
    """
    pictures = folder_of(name, root, "images/val2017", "val2017")
    maps = folder_of(name, root, "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017", "annotations/val2017")
    files = sorted(pictures.glob("*.jpg"))
    return paired(name, labelling(name), ((file.stem, file, maps / f"{file.stem}.png") for file in files))
