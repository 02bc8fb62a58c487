"""A folder of one's own: images/, labels/ (PNG, the same names) and classes.json."""

from __future__ import annotations

import json
from pathlib import Path

from .labelled import IGNORE, LabelledPictures, Labelling, folder_of, paired

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_folder(root: Path) -> LabelledPictures:
    """classes.json is a list of names, for the values 0, 1, ..., or an object from value to name; 255 is ignored."""
    name = "folder"
    pictures, maps = folder_of(name, root, "images"), folder_of(name, root, "labels")
    files = sorted(file for file in pictures.iterdir() if file.suffix.lower() in SUFFIXES)
    pairs = ((file.stem, file, maps / f"{file.stem}.png") for file in files)
    return paired(name, _classes(root / "classes.json"), pairs)


def _classes(path: Path) -> Labelling:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = dict(enumerate(content)) if isinstance(content, list) else {int(k): v for k, v in content.items()}
        if not 0 < len(names) <= IGNORE or not all(isinstance(name, str) and name.strip() for name in names.values()):
            raise ValueError(f"{len(names)} names; there must be 1 to {IGNORE}, none empty")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f'folder: {path} must be a list of class names, or an object such as {{"7": "road"}} ({error})'
        ) from error
    values = tuple((value, number) for number, value in enumerate(names))
    return Labelling(tuple(names.values()), values, () if IGNORE in names else (IGNORE,))
