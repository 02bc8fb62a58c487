"""COCO 2017 with the label maps of COCO-Stuff (stuffthingmaps)."""

from __future__ import annotations

from pathlib import Path

from .labeled import LabeledImages, folder_of, labeling, paired


def read_coco(root: Path, name: str) -> LabeledImages:
    """Validation: coco-object has 80 things, coco-object-background the background as the first class, coco-stuff-27
    coarse classes."""
    return coco_maps(root, name, "val2017")


def coco_maps(root: Path, name: str, split: str) -> LabeledImages:
    """A split, val2017 or train2017, with the classes of ``name``; coco-stuff has 171, things and stuff.

    ``root`` holds val2017 or images/val2017, and stuffthingmaps/val2017 (or annotations/val2017).
    """
    images = folder_of(name, root, f"images/{split}", split)
    maps = folder_of(
        name, root, f"stuffthingmaps/{split}", f"stuffthingmaps_trainval2017/{split}", f"annotations/{split}"
    )
    files = sorted(images.glob("*.jpg"))
    return paired(name, labeling(name), ((file.stem, file, maps / f"{file.stem}.png") for file in files))
