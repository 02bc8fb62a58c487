"""Captions of training images, read from JSON: COCO's format, or an object from image file to caption."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..storage.files import read_text


def read_captions(path: Path) -> dict[str, str]:
    """Captions by the image's file name without suffix; if an image has several, the first.

    `ValueError` if the file is neither COCO's ``{"images": [...], "annotations": [...]}`` nor ``{"photo.jpg": "..."}``.
    """
    try:
        content = json.loads(read_text(path))
        pairs = _coco_pairs(content) if "annotations" in content else list(content.items())
        if not pairs or not all(isinstance(text, str) for _, text in pairs):
            raise ValueError("no captions")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'captions: {path} must be COCO\'s captions JSON, or an object such as {{"photo.jpg": "a dog"}} ({error})'
        ) from error
    return {Path(name).stem: " ".join(text.split()) for name, text in reversed(pairs)}


def _coco_pairs(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return [(names[annotation["image_id"]], annotation["caption"]) for annotation in content["annotations"]]


def captions_for(names: Sequence[str], captions: Mapping[str, str] | None, source: Path | None) -> list[str]:
    """Each image's caption, or "" for all if ``captions`` is None; `ValueError` if an image has none."""
    if captions is None:
        return [""] * len(names)
    missing = [name for name in names if name not in captions]
    if missing:
        raise ValueError(
            f"captions: {source} has none for {missing[0]} ({len(missing)} of {len(names)} images have none)"
        )
    return [captions[name] for name in names]
