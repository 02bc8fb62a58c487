"""The parts of a report that show words: overlays, a table, and small maps by layer and by timestep."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import xarray as xr
from PIL import Image

from ..figures.overlay import heat
from .word import Word

_LONGEST = 512
"""Longer side in px of the pictures in a report."""
_TIMESTEPS = 14
"""Most timesteps side by side."""


def word_pictures(words: Sequence[Word], image: np.ndarray | None) -> str:
    """The image, and each word's map over it."""
    shown = [] if image is None else [_figure(Image.fromarray(image), "the image", "")]
    return f'<div class="words">{"".join([*shown, *(_of_word(word) for word in words)])}</div>'


def words_table(words: Sequence[Word]) -> str:
    """Each word's share, peak and contrast."""
    heads = ("word", "share of the image's attention", "peak", "at row, column", "contrast")
    rows = [
        (
            html.escape(word.name),
            f"{word.share:.2%}",
            f"{word.peak:.2%}",
            "{}, {}".format(*word.peak_place),
            f"{word.contrast:.1f}",
        )
        for word in words
    ]
    return f'<div class="wide">{_table(heads, rows)}</div>'


def tiles_table(words: Sequence[Word]) -> str:
    """A row a word, a column a layer, at the words' timestep."""
    layers = [f"layer {layer}" for layer in words[0].by_layer["layer"].values]
    return _tiles("", layers, [(word.name, word.by_layer) for word in words])


def steps_table(words: Sequence[Word]) -> str:
    """A row a word, a column a timestep, in the words' layer; empty if one timestep alone was read."""
    times = words[0].by_step["timestep"].values
    if len(times) < 2:
        return ""
    picked = np.unique(np.linspace(0, len(times) - 1, min(_TIMESTEPS, len(times))).round().astype(int))
    layer = "mean of the layers" if words[0].layer is None else f"layer {words[0].layer}"
    return _tiles(
        f"<h3>Step by step, {layer}</h3>",
        [f"t = {times[place]}" for place in picked],
        [(word.name, word.by_step.isel(timestep=picked)) for word in words],
    )


def _tiles(title: str, heads: Sequence[str], rows: Sequence[tuple[str, xr.DataArray]]) -> str:
    lines = []
    for name, maps in rows:
        top = float(maps.max())
        tiles = "".join(
            f"<td>{_tile(grid, top, f'{name}, {head}')}</td>" for head, grid in zip(heads, maps.values, strict=True)
        )
        lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{tiles}</tr>')
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", *heads))
    table = f'<table class="tiles"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'{title}<div class="wide">{table}</div>'


def _tile(grid: np.ndarray, top: float, alt: str) -> str:
    colors, _ = heat(grid, (grid.shape[1], grid.shape[0]), smooth=False, top=top)
    return f'<img alt="{html.escape(alt)}" src="{_uri(Image.fromarray(np.rint(colors).astype(np.uint8)))}">'


def _of_word(word: Word) -> str:
    return _figure(word.picture(), word.name, f"share {word.share:.1%}, peak {word.peak:.1%}")


def _figure(picture: Image.Image, name: str, note: str) -> str:
    picture.thumbnail((_LONGEST, _LONGEST))
    small = max(picture.size) < _LONGEST // 2
    style = ' style="image-rendering:pixelated"' if small else ""
    said = f'{html.escape(name)} <span class="quiet">{html.escape(note)}</span>'
    return (
        f'<figure><img alt="{html.escape(name)}" src="{_uri(picture)}"{style}><figcaption>{said}</figcaption></figure>'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
