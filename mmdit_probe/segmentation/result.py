"""`Segmentation`: a label map, the maps and the image it was made from, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from ..datasets.coco_rle import coco_annotations
from ..datasets.labeled import IGNORE
from ..storage.files import atomic_write, write_text
from ..storage.images import save_image
from ..storage.records import FORMAT, save_record, versions
from ..utils.html import image_tag
from ..utils.text import repaired
from .palette import IGNORED, palette
from .render import OPACITY, blended, sheet


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One image's label map.

    Attributes:
        labels: (height, width) positions in ``classes``.
        logits: (classes, rows, cols) fp32 soft maps on the token grid. The labels are the argmax of these maps upsampled
            bilinearly. For class names they are I2T attention probabilities, for regions distributions over the grid.
        classes: class names, or names of regions.
        image: (height, width, 3) uint8 RGB, the segmented image.
        settings: how it was segmented: layer, timestep and so on.

    >>> import numpy as np
    >>> maps = np.array([[[0.9, 0.2]], [[0.1, 0.8]]], np.float32)
    >>> found = Segmentation(np.array([[0, 1]], np.uint8), maps, ("dog", "grass"), np.zeros((1, 2, 3), np.uint8))
    >>> found.shares
    {'dog': 0.5, 'grass': 0.5}
    """

    labels: np.ndarray
    logits: np.ndarray
    classes: tuple[str, ...]
    image: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shares(self) -> dict[str, float]:
        """Each class's share of the pixels, in [0, 1]; they sum to 1."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        return {name: float(count / self.labels.size) for name, count in zip(self.classes, counts, strict=True)}

    def overlay(self, opacity: float = OPACITY) -> np.ndarray:
        """(height, width, 3) uint8 RGB: the image in gray under its classes' colors; ``opacity`` in [0, 1]."""
        return blended(self.image, self.labels, len(self.classes), opacity)

    def maps(self) -> xr.Dataset:
        """The soft maps as a record with the dimensions (class, row, col)."""
        record = xr.Dataset({"logits": (("class", "row", "col"), self.logits)}, {"class": list(self.classes)})
        return record.assign_attrs({"format": FORMAT, **versions(), **self.settings})

    def save(self, folder: Path | str, name: str) -> list[Path]:
        """Write NAME_labels.png, _legend.json, _overlay.png, _rle.json and, last, _maps.nc, each atomically.

        The label map is a palette PNG whose pixel values are positions in ``classes``, 255 for unlabeled pixels.
        `ValueError` if there are more than 255 classes.
        """
        if len(self.classes) > IGNORE:
            raise ValueError(f"save: a palette PNG holds {IGNORE} classes, this segmentation has {len(self.classes)}")
        stem = Path(folder) / name
        return [
            save_labels(self.labels, len(self.classes), _named(stem, "labels.png")),
            write_text(_named(stem, "legend.json"), json.dumps(self.legend(), indent=1)),
            save_image(np.asarray(self.show()), _named(stem, "overlay.png")),
            write_text(_named(stem, "rle.json"), json.dumps(self.coco(repaired(name)))),
            save_record(self.maps(), _named(stem, "maps.nc")),
        ]

    def legend(self) -> list[dict[str, Any]]:
        """For each class its label, its name, its color and its share of the pixels in [0, 1]."""
        colors = palette(len(self.classes)).tolist()
        return [
            {"label": number, "class": name, "color": "#{:02x}{:02x}{:02x}".format(*colors[number]), "share": share}
            for number, (name, share) in enumerate(self.shares.items())
        ]

    def coco(self, name: str) -> dict[str, Any]:
        """The classes' masks as COCO annotations with uncompressed run-length encoding."""
        height, width = self.labels.shape
        return {
            "image": {"file_name": name, "height": height, "width": width},
            "annotations": coco_annotations(self.labels, self.classes),
        }

    def show(self) -> Image.Image:
        """Image, overlay and legend side by side, as one image."""
        return sheet(self.image, self.labels, self.classes)

    def _repr_html_(self) -> str:
        """The overlay with its legend, for notebooks."""
        shown = np.asarray(self.show())
        return image_tag(shown, ", ".join(self.classes), shown.shape[1])


def _named(stem: Path, kind: str) -> Path:
    return stem.with_name(f"{stem.name}_{kind}")


def save_labels(labels: np.ndarray, classes: int, path: Path) -> Path:
    """Write a palette PNG whose pixel values are the labels, atomically."""
    image = Image.fromarray(labels.astype(np.uint8))
    colors = np.concatenate([palette(classes), np.tile(IGNORED, (256 - classes, 1))])
    image.putpalette(colors.astype(np.uint8).tobytes())
    with atomic_write(path) as part:
        image.save(part, format="PNG")
    return path
