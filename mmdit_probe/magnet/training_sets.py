"""Training sets for MAGNET: scenes, COCO, SA-1B, and a user's own folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.coco import coco_maps
from ..datasets.coco_rle import decode_mask
from ..datasets.folder import read_folder
from ..datasets.labeled import JPEG, LabeledImages, Sample, folder_of
from ..datasets.scenes import CLASSES, scene
from ..storage.digests import digest
from ..storage.files import read_text
from ..storage.images import files_in, read_oriented, turned_with
from .captions import captions_for, read_captions
from .examples import MaskedImage, TrainingSet, masks_of

SCENES = 100_000
"""Number of training scenes; each is drawn when it is read."""
KINDS = ("scenes", "coco", "sa1b", "folder")


def split_source(data: str) -> tuple[str, Path | None]:
    """Split ``scenes``, ``coco:ROOT``, ``sa1b:ROOT`` or ``folder:ROOT`` into kind and root; `ValueError` for anything else."""
    kind, _, root = data.partition(":")
    if kind not in KINDS or (kind == "scenes") == bool(root):
        raise ValueError(f"--data must be scenes, coco:ROOT, sa1b:ROOT or folder:ROOT, got {data!r}")
    if kind != "scenes" and not Path(root).is_dir():
        raise ValueError(f"--data {data}: there is no folder {root}")
    return kind, Path(root) if root else None


def open_training_set(data: str, captions: Path | None = None) -> TrainingSet:
    """Open a training set.

    Args:
        data: ``scenes``, ``coco:ROOT``, ``sa1b:ROOT`` or ``folder:ROOT``.
        captions: a JSON file, in COCO's format or an object from image file to caption. If None, COCO's
            ``annotations/captions_train2017.json`` and a folder's ``captions.json`` are used if they exist.

    Raises:
        ValueError: a file is missing, or an image has no caption.
    """
    kind, root = split_source(data)
    if root is None:
        if captions is not None:
            raise ValueError("--captions: scenes have captions of their own; leave it out")
        return TrainingSet("scenes", SCENES, _scene, named=True, captioned=True)
    given = captions or _found(root, "annotations/captions_train2017.json" if kind == "coco" else "captions.json")
    texts = None if given is None else read_captions(given)
    if kind == "sa1b":
        return _sa1b(root, texts, given)
    labeled = read_folder(root) if kind == "folder" else coco_maps(root, "coco-stuff", "train2017")
    return _labeled(labeled, texts, given)


def _found(root: Path, name: str) -> Path | None:
    return root / name if (root / name).is_file() else None


def _scene(number: int) -> MaskedImage:
    drawn = scene("train", number)
    masks, names = masks_of(drawn.labels, CLASSES)
    return MaskedImage(drawn.image, masks, names, drawn.sentence(np.random.default_rng(number)))


def _labeled(images: LabeledImages, captions: Mapping[str, str] | None, source: Path | None) -> TrainingSet:
    if not images.samples:
        raise ValueError(f"{images.name}: there is no image to learn from")
    texts = captions_for([sample.name for sample in images.samples], captions, source)

    def read(number: int) -> MaskedImage:
        sample: Sample = images.samples[number]
        image, labels = sample.load()
        masks, names = masks_of(labels, images.classes)
        return MaskedImage(image, masks, names, texts[number])

    files = [(sample.image, *(sample.source or ())) for sample in images.samples]
    known = _digest([*images.classes, *texts], chain.from_iterable(files))
    return TrainingSet(images.name, len(files), read, named=True, captioned=captions is not None, digest=known)


def _digest(texts: Iterable[str], files: Iterable[Any]) -> str:
    """Digest of texts and of the files' names and sizes; reading the whole set would take too long."""
    named = (f"{file.name} {file.stat().st_size}" for file in files if isinstance(file, Path))
    return digest(chain(texts, named))


def _sa1b(root: Path, captions: Mapping[str, str] | None, source: Path | None) -> TrainingSet:
    """SA-1B as released: NAME.jpg and NAME.json side by side; masks are run-length codes."""
    folder = folder_of("sa1b", root, "images", ".")
    files = [file for file in files_in(folder, JPEG) if file.with_suffix(".json").is_file()]
    if not files:
        raise ValueError(f"sa1b: {folder} has no image NAME.jpg with masks in NAME.json")
    if captions is None:
        raise ValueError(
            f"sa1b: its images have no captions; give --captions FILE, or write one with `mmdit-probe magnet caption {root}`"
        )
    texts = captions_for([file.stem for file in files], captions, source)
    known = _digest(texts, (part for file in files for part in (file, file.with_suffix(".json"))))
    return TrainingSet("sa1b", len(files), partial(_read_sa1b, files, texts), named=False, captioned=True, digest=known)


def _read_sa1b(files: list[Path], captions: list[str], number: int) -> MaskedImage:
    file = files[number]
    image, orientation = read_oriented(file)
    annotations = _annotations(file.with_suffix(".json"))
    masks = [decode_mask(annotation["segmentation"]) for annotation in annotations]
    turned = [turned_with(mask, image, orientation, file) for mask in masks]
    stacked = np.stack(turned) if turned else np.zeros((0, *image.shape[:2]), bool)
    return MaskedImage(image, stacked, None, captions[number])


def _annotations(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(read_text(path))["annotations"]
        return [annotation for annotation in found if annotation["segmentation"]["counts"]]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"sa1b: {path} is not an SA-1B annotation file ({error!r})") from error
