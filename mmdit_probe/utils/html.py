"""HTML snippets for notebooks; all text is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

_SHOWN = 256
"""Width in px at which an image is shown if none is given and it is not wider itself."""


def image_tag(image: np.ndarray, alt: str, width: int | None = None) -> str:
    """An <img> element of (height, width, 3) uint8 RGB, ``width`` px wide.

    Small images are enlarged without smoothing.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    wide = max(image.shape[1], _SHOWN) if width is None else width
    style = f"width:{wide}px;max-width:100%;height:auto"
    if image.shape[1] < wide:
        style += ";image-rendering:pixelated"
    return f'<img src="data:image/png;base64,{code}" alt="{html.escape(alt)}" style="{style}">'


def facts(values: Mapping[str, object]) -> str:
    """A two-column table of names and values."""
    return grid([[html.escape(name), html.escape(str(value))] for name, value in values.items()])


def grid(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table; ``rows`` hold cells of HTML, ``heads`` the plain texts of its header."""
    style = ' style="text-align:left;vertical-align:top"'
    lines = ["".join(f"<td{style}>{cell}</td>" for cell in row) for row in rows]
    if heads:
        lines.insert(0, "".join(f"<th{style}>{html.escape(head)}</th>" for head in heads))
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def chips(texts: Sequence[str], notes: Sequence[str]) -> str:
    """A row of boxes, each with a text and a note below it."""
    box = "display:inline-block;border:1px solid #8888;border-radius:4px;padding:0 .4em;margin:.1em;text-align:center"
    return "".join(
        f'<span style="{box}">{html.escape(text) or "&nbsp;"}<br><small>{html.escape(note)}</small></span>'
        for text, note in zip(texts, notes, strict=True)
    )
