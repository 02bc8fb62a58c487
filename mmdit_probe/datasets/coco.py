"""COCO 2017 with the label maps of COCO-Stuff (stuffthingmaps)."""

from __future__ import annotations

from pathlib import Path

from .labeled import JPEG, LabeledImages, folder_of, image_and_labels, labeling, paired


def read_coco(root: Path, name: str) -> LabeledImages:
    """Read the validation images of a variant.

    "coco-object" has the 80 things, "coco-object-background" also the background, as the first class, and "coco-stuff-27" 27
    coarse classes. ``root`` is as in `coco_maps`.
    """
    return coco_maps(root, name, "val2017")


def coco_maps(root: Path, name: str, split: str) -> LabeledImages:
    """Read a split, "val2017" or "train2017", with the classes of ``name``; "coco-stuff" has all 171 things and stuff.

    ``root`` holds SPLIT or images/SPLIT, and the label maps in stuffthingmaps/SPLIT, stuffthingmaps_trainval2017/SPLIT or
    annotations/SPLIT.
    """
    images = folder_of(name, root, f"images/{split}", split)
    maps = folder_of(
        name, root, f"stuffthingmaps/{split}", f"stuffthingmaps_trainval2017/{split}", f"annotations/{split}"
    )
    return paired(name, labeling(name), image_and_labels(images, maps, JPEG))
