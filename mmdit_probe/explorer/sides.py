"""What a page is made of, from whatever there is: a record, its file, something read, or a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..configs import ExploreConfig
from ..storage.records import load_record
from ..studies.diff import what_differs
from ..utils.progress import Progress
from .compare import side_by_side
from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page
from .records import image_of

_SPARE = 0.2
"""MB that two pages may take in one beyond their own."""


@dataclass(frozen=True, eq=False)
class Side:
    """One image's record, and the image if there is one."""

    record: xr.Dataset
    image: np.ndarray | None

    def contents(self, layers: tuple[int, ...] | None = None) -> Contents:
        """What the page keeps of it."""
        return contents_of(self.record, layers)

    @property
    def name(self) -> str:
        """The model and the prompt, as far as the record says."""
        attrs = self.record.attrs
        model, prompt = str(attrs.get("model", "")), str(attrs.get("prompt", ""))
        return ", ".join([*([model] if model else []), f"“{prompt}”" if prompt else "no words"])


def side_of(source: Any, config: ExploreConfig | None = None, image: np.ndarray | None = None) -> Side:
    """A side of a record, of a record's file, of what `trace` or a study left (``.record`` and ``.image``), or of a pipeline.

    A pipeline generates ``config.prompt``, or reads ``image``. `ValueError` if it has no prompt.
    """
    if isinstance(source, str | Path):
        record = load_record(Path(source))
        return Side(record, image_of(record, Path(source), None))
    if isinstance(source, xr.Dataset):
        return Side(source, source["image"].values if "image" in source else None)
    if hasattr(source, "record") and hasattr(source, "image"):
        shown = source.image
        return Side(source.record, shown if shown is not None and np.size(shown) else None)
    if config is None or config.prompt is None:
        raise ValueError("explore: give the prompt that the pipelines generate from, or records")
    found = measure_exploration(source, config, image)
    named = found.record.assign_attrs(model=str(getattr(source, "name_or_path", "") or type(source).__name__))
    return Side(named if "model" not in found.record.attrs else found.record, found.image)


def page_of_two(
    sides: Sequence[Side],
    megabytes: float = 15.0,
    layers: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> Page:
    """Two sides on one page, each in half of ``megabytes``.

    Raises:
        ValueError: there are not two, one has no I2T maps, or its half is too small for it.
    """
    if len(sides) != 2:
        raise ValueError(f"explore: one or two can be looked at on a page, got {len(sides)}")
    most = max(megabytes / 2 - _SPARE, 0.45 * megabytes)
    pages = [make_page(side.contents(layers), side.image, most, progress) for side in sides]
    return side_by_side(pages, [side.name for side in sides], what_differs(sides[0].record, sides[1].record))
