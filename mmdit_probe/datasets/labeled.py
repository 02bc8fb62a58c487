"""Labeled images: what every data set's reader returns, and the functions that readers share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..storage.digests import digest
from ..storage.files import read_text
from ..storage.images import files_in, open_image, read_oriented, turned_with
from ..utils.text import repaired

IGNORE = 255
"""The label of pixels that are left out of every metric."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One labeled image.

    Attributes:
        name: the image's name in the data set.
        image: a file, or (height, width, 3) uint8 RGB.
        read: returns the label map (height, width) uint8 of class numbers and `IGNORE`.
        source: the files and texts that the label map is made from; None if there is nothing but ``read``.
    """

    name: str
    image: Path | np.ndarray
    read: Callable[[], np.ndarray]
    source: tuple[Path | str, ...] | None = None

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """The image (height, width, 3) uint8 RGB, upright, and its label map (height, width), see `turned_with`.

        `ValueError` names the image if the two do not fit each other.
        """
        if isinstance(self.image, Path):
            image, orientation = read_oriented(self.image)
            return image, turned_with(self.read(), image, orientation, self.image)
        return self.image, turned_with(self.read(), self.image, 1, self.name)


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """A data set: its name, the names of its classes, and its images in a fixed order.

    ``built_in`` images are drawn by the package and are the same everywhere.
    """

    name: str
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    built_in: bool = False

    @cached_property
    def digest(self) -> str:
        """A fingerprint of images, label maps and classes, independent of where the files lie.

        Every file is read once; built-in images are not drawn.
        """
        if self.built_in:
            return digest([self.name, str(len(self.samples)), *self.classes])
        return digest(chain(self.classes, *map(_contents, self.samples)))

    def first(self, limit: int | None) -> LabeledImages:
        """The first ``limit`` images, or all if None; `ValueError` if there are none."""
        samples = self.samples[:limit]
        if not samples:
            raise ValueError(f"{self.name}: there is no image to evaluate ({len(self.samples)} found, limit {limit})")
        return replace(self, samples=samples)


def _contents(sample: Sample) -> Iterator[Path | str | np.ndarray]:
    yield from (sample.name, sample.image)
    yield from (sample.read(),) if sample.source is None else sample.source


@dataclass(frozen=True)
class Labeling:
    """How the values of label files become class numbers.

    Attributes:
        classes: names of the classes.
        values: pairs of a value and its class number.
        ignored: values that become `IGNORE`.
        other: what all remaining values become; None if such a value is an error.
    """

    classes: tuple[str, ...]
    values: tuple[tuple[int, int], ...]
    ignored: tuple[int, ...] = ()
    other: int | None = None

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(1 << 16, -1 if self.other is None else self.other)
        table[list(self.ignored)] = IGNORE
        for value, number in self.values:
            table[value] = number
        return table

    def apply(self, values: np.ndarray, source: Any) -> np.ndarray:
        """Class numbers (height, width) uint8; `ValueError` names ``source`` and a value without a class."""
        labels = self._table[values]
        if (labels < 0).any():
            raise ValueError(f"{source} holds the value {values[labels < 0][0]}, which is not a class of this data set")
        return labels.astype(np.uint8)


@lru_cache
def labeling(name: str) -> Labeling:
    """The classes and label values of a public data set, from classes.json."""
    known = json.loads((files("mmdit_probe") / "datasets" / "classes.json").read_text(encoding="utf-8"))[name]
    values = tuple((int(value), number) for value, number in known["values"].items())
    return Labeling(tuple(known["classes"]), values, tuple(known["ignored"]), known.get("other"))


_PACKED = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the values of gray PNG files of 2 and 4 bits with, so that they fill 8 bits."""


def read_values(path: Path) -> np.ndarray:
    """The values (height, width) of a palette, gray, 1-bit or 16-bit label image, 0 to 65535; `ValueError` for other images."""
    with open_image(path, "label map") as opened:
        tiles: Any = getattr(opened, "tile", None)
        scale = _PACKED.get(str(tiles[0].args), 1) if opened.format == "PNG" and tiles else 1
        values = np.asarray(opened)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if scale != 1 and values.dtype == np.uint8:
        values = values // scale
    if (
        values.ndim != 2
        or values.dtype.kind not in "ui"
        or (values.size and not 0 <= values.min() <= values.max() < 1 << 16)
    ):
        raise ValueError(f"label map {path} must have one channel of whole numbers from 0 to 65535, got {values.shape}")
    return values


def read_labels(path: Path, labels: Labeling) -> np.ndarray:
    """The label map (height, width) uint8 of a file."""
    return labels.apply(read_values(path), path)


def paired(name: str, labels: Labeling, pairs: Iterable[tuple[str, Path, Path]]) -> LabeledImages:
    """A data set of (name, image file, label file); `ValueError` names the first file that is missing."""
    samples, reading = [], str(labels)
    for stem, image, target in pairs:
        for file in (image, target):
            if not file.is_file():
                raise ValueError(f"{name}: {file} is missing; every image needs its label map")
        samples.append(Sample(repaired(stem), image, partial(read_labels, target, labels), (target, reading)))
    return LabeledImages(name, labels.classes, samples)


def image_and_labels(images: Path, maps: Path, suffixes: Collection[str]) -> Iterator[tuple[str, Path, Path]]:
    """The images of a folder for `paired`: (name, image file, label file), in order."""
    targets = by_stem(maps, LABELS)
    for file in files_in(images, suffixes):
        yield file.stem, file, targets.get(file.stem, maps / f"{file.stem}.png")


def listed(stems: Iterable[str], images: Path, maps: Path) -> Iterator[tuple[str, Path, Path]]:
    """The JPEG images of a list for `paired`: (name, image file, label file)."""
    files, targets = by_stem(images, JPEG), by_stem(maps, LABELS)
    for stem in stems:
        yield stem, files.get(stem, images / f"{stem}.jpg"), targets.get(stem, maps / f"{stem}.png")


JPEG = (".jpg", ".jpeg")
LABELS = (".png", ".tif", ".tiff", ".bmp")
"""Formats that keep the values of a label map."""


def by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files of a folder by name without suffix; none if there is no folder."""
    return {file.stem: file for file in reversed(files_in(folder, suffixes))} if folder.is_dir() else {}


def folder_of(name: str, root: Path, *places: str) -> Path:
    """The first of ``places`` in ``root`` that is a folder; `ValueError` names them all if none is."""
    for place in places:
        if (root / place).is_dir():
            return root / place
    raise ValueError(f"{name}: --root {root} holds none of the folders {', '.join(places)}")


def lines_of(name: str, path: Path) -> list[str]:
    """The image names in a list file, one a line; `ValueError` if it is missing or not text."""
    if not path.is_file():
        raise ValueError(f"{name}: {path} is missing; it lists the images")
    try:
        return [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {path} can't be read as text ({error}); it lists the images") from error
