"""Places of the image as a user writes them: boxes and mask files, with or without a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..edits.places import Place, place_mask
from ..storage.images import read_rgb


def given_place(name: str, text: str) -> Place:
    """The place that a text such as "0,0,0.5,1" or "mask.png" says; `ValueError` that begins with ``name`` if it says none.

    >>> given_place("where", "0,0,0.5,1")
    (0.0, 0.0, 0.5, 1.0)
    """
    box = _box(text)
    place = read_rgb(Path(text)).mean(-1) > 127 if box is None else box
    place_mask(name, place)
    return place


def given_regions(texts: Sequence[str]) -> dict[str, Place]:
    """Places by word from texts such as "red circle=0,0,0.5,1" or "dog=mask.png"; `ValueError` if one can't be read."""
    found: dict[str, Place] = {}
    for text in texts:
        word, place = _parted(text)
        if not word or not place:
            raise ValueError(f'region: give a word and its place, such as "red circle=0,0,0.5,1", got {text!r}')
        if word in found:
            raise ValueError(f"region: {word!r} is given twice")
        found[word] = given_place(f"region {word!r}", place)
    return found


def mask_files(texts: Sequence[str]) -> list[Path]:
    """The files among the places of texts, with or without a word before them."""
    places = [_parted(text)[1] if "=" in text else text for text in texts]
    return [Path(place) for place in places if _box(place) is None]


def _parted(text: str) -> tuple[str, str]:
    word, equals, place = (part.strip() for part in text.rpartition("="))
    return (word, place) if equals else ("", place)


def _box(text: str) -> tuple[float, ...] | None:
    sides = text.split(",")
    try:
        return tuple(float(side) for side in sides) if len(sides) == 4 else None
    except ValueError:
        return None
