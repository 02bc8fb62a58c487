"""Word: where one word of the prompt is."""

from __future__ import annotations

import html
import io
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image

from ..figures.overlay import heat, overlay
from ..storage.images import as_rgb, read_rgb
from ..utils.html import grid as table
from ..utils.html import image_tag

Picture = np.ndarray | Image.Image | Path | str
"""An image: (height, width, 3) uint8 RGB, a PIL image, or a file."""
_HEADS = "head_group"


@dataclass(frozen=True, eq=False)
class Word:
    """A word's maps: probabilities in [0, 1] with which each image token attends to the word's tokens, their mean.

    Attributes:
        name: the word or phrase; ``circle#2`` is the second circle.
        places: the text positions of its tokens.
        maps: (timestep, layer, head_group, row, col), means over the heads of a group; ``heads`` is each group's size.
        layer: the layer of `map`; None for the mean of all.
        timestep: the timestep of `map`, counted from the clean end.
        image: (height, width, 3) uint8 RGB, None if it is not known.
    """

    name: str
    places: tuple[int, ...]
    maps: xr.DataArray
    layer: int | None
    timestep: int
    image: np.ndarray | None = None

    @property
    def map(self) -> xr.DataArray:
        """(row, col): the mean over heads, of the word's layer and timestep."""
        return self._of_layer(self._mean.sel(timestep=self.timestep))

    @property
    def by_layer(self) -> xr.DataArray:
        """(layer, row, col): the mean over heads of each layer at the word's timestep."""
        return self._mean.sel(timestep=self.timestep)

    @property
    def by_step(self) -> xr.DataArray:
        """(timestep, row, col): the mean over heads at each timestep of the word's layer."""
        return self._of_layer(self._mean)

    @property
    def by_head(self) -> xr.DataArray:
        """(head, row, col): each head, of the word's layer and timestep; (head_group, row, col) where heads were joined.

        The coordinate of a group says which heads it holds, such as "0-2".
        """
        maps = self._of_layer(self.maps.sel(timestep=self.timestep))
        if (maps["heads"].values > 1).any():
            return maps
        single = maps.rename({_HEADS: "head"}).drop_vars("heads")
        return single.assign_coords(head=[int(label) for label in single["head"].values])

    @property
    def share(self) -> float:
        """What share of the image's attention all the word's tokens get, in [0, 1]: their sum, averaged over image tokens."""
        return float(self.map.mean()) * len(self.places)

    @property
    def peak(self) -> float:
        """The map's largest probability."""
        return float(self.map.max())

    @property
    def peak_place(self) -> tuple[int, int]:
        """Row and column of the peak, in tokens from the top left; (-1, -1) if nothing was measured."""
        values = self.map.values
        if not np.isfinite(values).any():
            return -1, -1
        row, col = np.unravel_index(int(np.nanargmax(values)), values.shape)
        return int(row), int(col)

    @property
    def contrast(self) -> float:
        """Peak / mean: 1 for a word that is looked at from everywhere alike; NaN where the mean is 0."""
        mean = float(self.map.mean())
        return self.peak / mean if mean > 0 else float("nan")

    @property
    def _mean(self) -> xr.DataArray:
        """The mean over all heads."""
        return self.maps.weighted(self.maps["heads"]).mean(_HEADS, keep_attrs=True)

    def _of_layer(self, maps: xr.DataArray) -> xr.DataArray:
        return maps.mean("layer", keep_attrs=True) if self.layer is None else maps.sel(layer=self.layer)

    def overlay(self, image: Picture | None = None, *, smooth: bool = True) -> Image.Image:
        """The map over the image, at the image's own size; notebooks show it.

        Args:
            image: the image that was made or read; None for the one that was seen.
            smooth: interpolate between tokens, or draw each as a block.

        Raises:
            ValueError: no image was seen and none is given, or its proportions are not the map's.
        """
        shown = self.image if image is None else pixels_of(image)
        if shown is None:
            raise ValueError("overlay: no image was seen (the pipeline gave latents); give the image")
        return overlay(shown, self.map.values, smooth=smooth)

    def picture(self) -> Image.Image:
        """`overlay`, or where no image is known the map alone, 32 px a token."""
        if self.image is not None:
            return self.overlay()
        grid = self.map.values
        colors, _ = heat(grid, (32 * grid.shape[1], 32 * grid.shape[0]), smooth=False)
        return Image.fromarray(np.rint(colors).astype(np.uint8))

    def describe(self) -> str:
        """The word's map in a few words."""
        layer = "mean of layers" if self.layer is None else f"layer {self.layer}"
        return f"{self.name}: {layer}, timestep {self.timestep}, share {self.share:.2%}, peak {self.peak:.2%}"

    def __repr__(self) -> str:
        return f"Word({self.describe()})"

    def _repr_png_(self) -> bytes:
        """The overlay, as notebooks show it."""
        buffer = io.BytesIO()
        self.picture().save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        """The overlay and what it is of, as notebooks show it."""
        return table([[image_tag(np.asarray(self.picture()), self.name)], [html.escape(self.describe())]])


def pixels_of(image: Picture) -> np.ndarray:
    """(height, width, 3) uint8 RGB of an array, a PIL image or a file; upright."""
    if isinstance(image, Path | str):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        from PIL import ImageOps

        return as_rgb(ImageOps.exif_transpose(image))
    return as_rgb(image)


def check_kept(what: str, wanted: Hashable, kept: xr.DataArray) -> None:
    """`ValueError` if a layer or timestep was not kept."""
    if wanted not in kept.values.tolist():
        raise ValueError(f"word: {what} {wanted} was not kept; kept are {', '.join(map(str, kept.values.tolist()))}")
