"""Opening labeled data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np

from .ade20k import read_ade20k
from .cityscapes import read_cityscapes
from .coco import read_coco
from .context import read_context
from .folder import read_folder
from .labeled import LabeledImages, Sample
from .scenes import CLASSES, Split, scene
from .voc import read_voc

SCENES = 300
"""Number of test scenes if no limit is given."""
READERS: Mapping[str, Callable[[Path], LabeledImages]] = {
    "voc20": partial(read_voc, name="voc20"),
    "voc21": partial(read_voc, name="voc21"),
    "context": read_context,
    "coco-object": partial(read_coco, name="coco-object"),
    "coco-object-background": partial(read_coco, name="coco-object-background"),
    "coco-stuff-27": partial(read_coco, name="coco-stuff-27"),
    "ade20k": read_ade20k,
    "cityscapes": read_cityscapes,
    "cityscapes-27": partial(read_cityscapes, name="cityscapes-27"),
    "folder": read_folder,
}
DATASETS = ("scenes", *READERS)
ALIASES = {"pc59": "context", "ade20k-150": "ade20k", "cityscapes-19": "cityscapes"}


def open_dataset(name: str, root: Path | None = None, limit: int | None = None) -> LabeledImages:
    """Open a labeled data set.

    Args:
        name: one of `DATASETS`, or an alias of `ALIASES`; "scenes" is built in.
        root: the folder of the data set as released; not needed for "scenes".
        limit: the first so many images, all if None (300 of the scenes).

    Raises:
        ValueError: the name is unknown, or files are missing.

    >>> images = open_dataset("scenes", limit=2)
    >>> images.samples[0].image.shape, images.samples[0].read().shape
    ((64, 64, 3), (64, 64))
    >>> images.classes[:3]
    ('grass', 'sand', 'water')
    """
    name = dataset_name(name)
    if name == "scenes":
        return held_out_scenes(SCENES if limit is None else limit).first(limit)
    if root is None:
        raise ValueError(f"{name}: give its folder by --root")
    if not root.is_dir():
        raise ValueError(f"{name}: give its folder by --root; there is no folder {root}")
    return READERS[name](root).first(limit)


def dataset_name(given: str) -> str:
    """The data set's name in lower case, aliases resolved: "PC59" is "context"; `ValueError` if it is unknown."""
    name = ALIASES.get(given.lower(), given.lower())
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {given!r}")
    return name


def held_out_scenes(count: int, split: Split = "test") -> LabeledImages:
    """The first ``count`` scenes of the test split, or of val, on which settings are chosen; each is drawn when accessed."""
    name = "scenes" if split == "test" else f"scenes-{split}"
    return LabeledImages(name, CLASSES, _Scenes(range(count), split), built_in=True)


class _Scenes(Sequence[Sample]):
    """Scenes by number, drawn on access and not kept, so that their number costs no memory."""

    def __init__(self, numbers: range, split: Split) -> None:
        self.numbers, self.split = numbers, split

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, key: int) -> Sample: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Sample]: ...
    def __getitem__(self, key: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(key, slice):
            return _Scenes(self.numbers[key], self.split)
        number = self.numbers[key]
        drawn = scene(self.split, number)
        return Sample(f"scene{number:05d}", drawn.image, partial(np.copy, drawn.labels))
