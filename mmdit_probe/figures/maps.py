"""Figures of word maps: heat maps over the image."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..configs.reading import Read
from .style import house_style, time_label

ACROSS = 8
"""Most layers side by side; further ones start a new row."""
_SHORT = 1.4
"""Panels that are less high, in inches, have their color bar below."""
_TITLE = 0.95
"""The width of a panel's title, in inches."""
_THICK = 0.08
"""Such a bar's height, in inches."""
TOKENS_ACROSS = 10
"""Most tokens side by side."""
HEAT: dict[str, Any] = {"cmap": "plasma", "interpolation": "nearest"}
DIRECTIONS: dict[Read, str] = {
    "i2t": "image queries to the word",
    "t2i": "the word to image positions",
    "output": "similarity to the word in the attention's output",
    "concept": "similarity to the concept in the attention's output",
    "contribution": "length of what the word adds to the image stream",
}
LABELS: dict[Read, str] = {"i2t": "probability", "t2i": "probability", "contribution": "length, model's units"}
"""What the color scale shows; a cosine similarity of all others, whose scale begins at the smallest value."""


def plot_overlay(ax: Axes, grid: np.ndarray, image: np.ndarray | None, top: float, low: float = 0.0) -> Any:
    """Draw a map (row, col) over the image in gray, at the image's proportions; returns the map's image.

    Row 0 is at the top, one unit is one token.
    """
    rows, cols = grid.shape
    where = (0, cols, rows, 0)
    if image is not None:
        gray = image.astype(float) @ (0.299, 0.587, 0.114)
        ax.imshow(gray, cmap="gray", vmin=-60, vmax=255, extent=where)
        solid = 0.25 + 0.6 * np.sqrt(
            np.clip((np.nan_to_num(grid) - low) / (top - low), 0, 1)
        )  # small probabilities hide little
    shown = ax.imshow(grid, extent=where, vmin=low, vmax=top, alpha=None if image is None else solid, **HEAT)
    if image is not None:
        ax.set_aspect(image.shape[0] * cols / (image.shape[1] * rows))
    _bare(ax)
    return shown


def word_page(
    maps: xr.DataArray, image: np.ndarray | None, word: str, direction: Read, steps: int | None = None
) -> Figure:
    """One word's maps: rows are timesteps, columns are layers, one color scale for all; of one layer the timesteps in a row.

    Args:
        maps: (timestep, layer, row, col) probabilities with the coordinate ``sigma``.
        image: (height, width, 3) uint8 RGB, or None.
        word: the word, for the title.
        direction: what was read, see `DIRECTIONS`.
        steps: the number of sampling steps, named with each timestep if it is given.
    """
    values, layers = maps.values, [_layer_name(layer) for layer in maps["layer"].values.tolist()]
    times = [
        time_label(timestep, sigma, steps).replace(" (", "\n(")
        for timestep, sigma in zip(maps["timestep"].values, maps["sigma"].values, strict=True)
    ]
    turned = len(layers) == 1 and len(times) > 1
    down, along = ([layers[0]], times) if turned else (times, layers)
    bands = -(-len(along) // ACROSS)
    across = -(-len(along) // bands)
    low, top = scale_of(values, direction)
    with house_style():
        rows, cols = values.shape[-2:] if image is None else image.shape[:2]
        tile = 0.95 * max(1.0, 4.0 / (across + 1)) * min(1.0, cols / rows)  # few panels are larger, tall ones narrower
        tile = max(_TITLE, tile)
        panels = (tile * rows / cols + (0.34 if turned else 0.2)) * bands * len(down)
        below = panels < _SHORT
        size = (max(3.4, tile * (across + 1) + (0.1 if below else 0.9)), panels + (0.95 if below else 0.45))
        figure, axes = plt.subplots(bands * len(down), across + 1, figsize=size, squeeze=False)
        figure.set_layout_engine("compressed")
        for ax in axes.flat:
            ax.axis("off")
        for number, name in enumerate(down):
            first = number * bands
            _image(axes[first, 0], image, name)
            for index, title in enumerate(along):
                ax = axes[first + index // across, 1 + index % across]
                shown = plot_overlay(ax, values[index, 0] if turned else values[number, index], image, top, low)
                ax.set_title(title, pad=2)
        figure.suptitle(
            f"“{word}”: {DIRECTIONS[direction]}{', mean over heads' * (direction in ('i2t', 't2i'))}", fontsize=9
        )
        kind = LABELS.get(direction, "cosine similarity")
        _bar(figure, shown, axes, top, low=low, kind=kind, below=tile * (across + 1) if below else None)
        return figure


def _layer_name(layer: int | str) -> str:
    return layer if isinstance(layer, str) else f"layer {layer}"


def heads_page(maps: xr.DataArray, word: str, direction: Read, steps: int | None = None) -> Figure:
    """One word's maps at one timestep: rows are layers, columns are heads.

    ``maps`` is (layer, head, row, col); ``direction`` and ``steps`` are as in `word_page`.
    """
    values, layers, heads = maps.values, maps["layer"].values, range(maps.sizes["head"])
    _, top = scale_of(values, direction)
    tile = min(0.55, max(0.3, 7.0 / len(heads)))
    with house_style():
        height = tile * values.shape[-2] / max(values.shape[-2:])
        size = (max(4.0, tile * len(heads) + 1.3), max(1.8, height * len(layers) + 0.9))
        figure, axes = plt.subplots(len(layers), len(heads), figsize=size, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        for row, layer in enumerate(layers):
            for head in heads:
                shown = plot_overlay(axes[row, head], values[row, head], None, top)
            axes[row, 0].set_ylabel(str(layer), rotation=0, ha="right", va="center", labelpad=4)
        for head in heads:
            axes[0, head].set_title(str(head), pad=2)
        time = time_label(maps["timestep"], maps["sigma"], steps)
        figure.suptitle(f"“{word}”, {DIRECTIONS[direction]}\n{time}: heads across, layers down", fontsize=9)
        _bar(figure, shown, axes, top)
        return figure


def tokens_page(maps: np.ndarray, names: list[str], image: np.ndarray, regions: np.ndarray, title: str) -> Figure:
    """The image, its regions in colors (height, width, 3), and each token's map.

    ``maps`` (token, row, col) are scaled to [0, 1] over the tokens; ``names`` says what each token is.
    """
    across = min(TOKENS_ACROSS, len(maps) + 2)
    down = -(-(len(maps) + 2) // across)
    height = 0.62 * maps.shape[1] / max(maps.shape[1:])
    with house_style():
        size = (0.66 * across + 0.8, (height + 0.17) * down + 0.4)
        figure, axes = plt.subplots(down, across, figsize=(size[0], max(size[1], 1.8)), squeeze=False)
        figure.get_layout_engine().set(w_pad=0.012, h_pad=0.012, wspace=0.02, hspace=0.02)
        for ax in axes.flat:
            ax.axis("off")
        _image(axes.flat[0], image, "image")
        _image(axes.flat[1], regions, "regions")
        for number, (ax, grid, name) in enumerate(zip(axes.flat[2:], maps, names, strict=False)):
            shown = plot_overlay(ax, grid, None, 1.0)
            ax.set_title(name if name != "padding" else str(number), pad=2, fontsize=7)
        figure.suptitle(f"{title}; numbers are padding tokens", fontsize=8.5)
        _bar(figure, shown, axes, 100, "% of the range\nover the tokens")
        return figure


def scale_of(values: np.ndarray, direction: Read) -> tuple[float, float]:
    """The ends of a color scale: 0, or of similarities the smallest value, and the largest, or 1 if there is none."""
    known = np.isfinite(values).any()
    low = 0.0 if direction in LABELS or not known else float(np.nanmin(values)) - 1e-6
    return low, float(np.nanmax(values)) if known and np.nanmax(values) > 0 else 1.0


def _image(ax: Axes, image: np.ndarray | None, label: str) -> None:
    if image is not None:
        ax.imshow(image)
    _bare(ax)
    ax.set_title(label, pad=2)


def _bare(ax: Axes) -> None:
    """No ticks and no frame."""
    ax.axis("on")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _bar(
    figure: Figure,
    shown: Any,
    axes: np.ndarray,
    top: float,
    label: str | None = None,
    low: float = 0.0,
    kind: str = "probability",
    below: float | None = None,
) -> None:
    """A color bar as high as the panels, or below them where ``below``, their width in inches, is given."""
    scale = ScalarMappable(Normalize(low, top), shown.get_cmap())  # in solid colors, even if the overlay is transparent
    if below is not None:
        bar = figure.colorbar(scale, ax=axes, location="bottom", fraction=0.12, pad=0.04, aspect=below / _THICK)
    else:
        bar = figure.colorbar(scale, ax=axes, fraction=0.03, pad=0.02, aspect=25)
    bar.set_label(label or f"{kind}{chr(10) if below is None else ' '}(one scale, {low:.2g} to {top:.2g})")
