"""A user's own data set: a folder with images/, labels/ (PNG files of the same names) and classes.json."""

from __future__ import annotations

import json
from pathlib import Path

from ..storage.files import read_text
from ..utils.text import LONGEST_NAME, checked_once, checked_text
from .labeled import IGNORE, LabeledImages, Labeling, folder_of, image_and_labels, paired

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_folder(root: Path) -> LabeledImages:
    """Read a folder; classes.json lists the names of the label values 0, 1, ..., or maps values to names. 255 is ignored."""
    name = "folder"
    images, maps = folder_of(name, root, "images"), folder_of(name, root, "labels")
    return paired(name, _classes(root / "classes.json"), image_and_labels(images, maps, SUFFIXES))


def _classes(path: Path) -> Labeling:
    try:
        content = json.loads(read_text(path))
        names = dict(enumerate(content)) if isinstance(content, list) else {int(k): v for k, v in content.items()}
        if not 0 < len(names) <= IGNORE or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"expected 1 to {IGNORE} names, all of them text, got {len(names)}")
        if not all(0 <= value < 1 << 16 for value in names):
            raise ValueError("label values must be 0 to 65535")
        checked_once("class name", [checked_text("class name", name, LONGEST_NAME) for name in names.values()])
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f'folder: {path} must be a list of class names, or an object such as {{"7": "road"}} ({error})'
        ) from error
    values = tuple((value, number) for number, value in enumerate(names))
    return Labeling(tuple(names.values()), values, () if IGNORE in names else (IGNORE,))
