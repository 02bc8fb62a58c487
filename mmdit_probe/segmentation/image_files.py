"""Segment many image files in batches; each image's files are written as soon as it is done and never computed twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..storage.digests import digest
from ..storage.files import read_text
from ..storage.images import files_in, read_rgb
from ..storage.records import load_record
from ..storage.runs import RunFolder
from ..utils.distributed import ShareDone
from ..utils.memory import run_in_batches
from ..utils.progress import Progress
from ..utils.text import repaired
from .render import percent
from .result import Segmentation

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FILES = ("labels.png", "legend.json", "overlay.png", "rle.json", "maps.nc")
Batch = Callable[[Sequence[np.ndarray]], list[Segmentation]]


def image_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by name without suffix; a folder stands for the images directly in it, in order.

    `ValueError` before any work if a file is missing or unreadable, a folder holds no image, or two files have one name.
    """
    files: dict[str, Path] = {}
    for path in (found for given in paths for found in _inside(given)):
        other = files.setdefault(path.stem, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} would be written to the same files; rename one or run them separately"
            )
        read_rgb(path)
    return files


def _inside(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = files_in(path, SUFFIXES)
    if not found:
        raise ValueError(f"{path} holds no image ({', '.join(SUFFIXES)})")
    return found


def segment_files(
    segment: Batch,
    files: Mapping[str, Path],
    out: Path,
    settings: Mapping[str, Any],
    batch: int = 8,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Segment images and write the files of each one's `Segmentation` to ``out``; finished ones of the same image are kept.

    Args:
        segment: from images (height, width, 3) to their segmentations.
        files: image files by the name that their output files begin with.
        out: output folder; `ValueError` if it holds a run with other settings, or one of other images.
        settings: what the segmentations depend on.
        batch: images segmented together, at least 1.
        progress: called after each image.

    Returns:
        One row for each image and class: ``image``, ``class``, and ``share`` of the image's pixels in [0, 1].
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    with RunFolder(out, settings).open() as run:
        share = run.share
        if share.first:
            run.claim([*(f"{name}_{kind}" for name in files for kind in FILES), *tables_of(settings)])
        share.wait()  # until the files are the run's
        every = list(files.items())
        own = dict(chain(*share.of([every[start : start + batch] for start in range(0, len(every), batch)])))
        tables = _segmented(segment, own, out, settings, batch, progress)
        share.wait()
        if not share.first:
            raise ShareDone(share)
        for name, path in files.items():
            if name not in tables:
                tables[name] = _found(out, name, digest([read_rgb(path)]))
    return pd.concat([tables[name] for name in files], ignore_index=True)


def _segmented(
    segment: Batch,
    files: Mapping[str, Path],
    out: Path,
    settings: Mapping[str, Any],
    batch: int,
    progress: Progress | None,
) -> dict[str, pd.DataFrame]:
    """By name, the table of each image, whose files are there now."""
    tables: dict[str, pd.DataFrame] = {}
    waiting: dict[str, np.ndarray] = {}
    for number, (name, path) in enumerate(files.items()):
        image = read_rgb(path)
        known = _finished(out, name, digest([image]))
        if known is None:
            waiting[name] = image
        else:
            tables[name] = known
        if waiting and (len(waiting) == batch or number == len(files) - 1):
            tables |= _segment(segment, waiting, out, settings)
            waiting = {}
        if progress is not None:
            progress(len(tables), len(files))
    return tables


def _found(out: Path, name: str, source: str) -> pd.DataFrame:
    """The table of an image that another process has segmented."""
    table = _finished(out, name, source)
    if table is None:
        raise ValueError(
            f"{out}: the files of {name} are missing; start the run again, it computes only what is missing"
        )
    return table


def tables_of(settings: Mapping[str, Any]) -> list[str]:
    """The table that the command with these settings writes next to the images' files."""
    return [f"{settings['study']}.csv"] if "study" in settings else []


def _segment(
    segment: Batch, images: Mapping[str, np.ndarray], out: Path, settings: Mapping[str, Any]
) -> dict[str, pd.DataFrame]:
    tables = {}
    found, at_once = run_in_batches(segment, list(images.values()))
    for (name, image), made in zip(images.items(), found, strict=True):
        origin = {"source": digest([image]), "model": settings["model"], "images_at_once": at_once}
        origin |= {"unknown_words": settings["unknown_words"]} if "unknown_words" in settings else {}
        replace(made, settings={**made.settings, **origin}).save(out, name)
        tables[name] = _table(name, made.shares)
    return tables


def _finished(out: Path, name: str, source: str) -> pd.DataFrame | None:
    """The table of an image whose files are complete (the maps are written last), else None."""
    try:
        same = load_record(out / f"{name}_maps.nc").attrs.get("source") == source
        legend = json.loads(read_text(out / f"{name}_legend.json"))
    except (ValueError, OSError):
        return None
    if not same or not all((out / f"{name}_{kind}").is_file() for kind in FILES):
        return None
    return _table(name, {item["class"]: item["share"] for item in legend})


def _table(name: str, shares: Mapping[str, float]) -> pd.DataFrame:
    return pd.DataFrame({"image": repaired(name), "class": list(shares), "share": list(shares.values())})


def summary(table: pd.DataFrame, most: int = 12) -> list[str]:
    """One line for each image: its classes by their share of the pixels, largest first."""
    lines = []
    for name, own in table.groupby("image", sort=False):
        ranked = own[own["share"] > 0].sort_values("share", ascending=False, kind="stable")
        shown = [f"{row['class']} {percent(row['share'])}" for _, row in ranked.iterrows()]
        lines.append(f"{name}: {', '.join(shown[:most])}{', ...' if len(shown) > most else ''}")
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
