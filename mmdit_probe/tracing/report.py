"""The report: everything that was read of one image on one page, and how to read each part."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from ..pipelines.defaults import ModelDefaults
from ..storage.pages import HtmlPage, document
from .sections import Section, figure_sections
from .tiles import steps_table, tiles_table, word_pictures, words_table
from .word import Word


@dataclass(frozen=True, eq=False)
class Report(HtmlPage):
    """A finished report.

    Attributes:
        text: the HTML, which loads nothing else.
        short: what is to be known first, a sentence each.
        sections: its parts with figures.
    """

    kind: ClassVar[str] = "report"
    short: tuple[str, ...]
    sections: tuple[Section, ...]


_HOW_WORDS = (
    "Each number of a map is a probability: how much of its attention an image token gives to the word's tokens, their mean. "
    "Bright is the map's own largest value, so that maps of different words can't be compared by color; compare peak and share. "
    "Share is how much of the whole image's attention the word gets. Contrast is peak / mean: near 1, the word is looked at "
    "from everywhere alike and its map shows no place."
)
_HOW_TILES = (
    "One color scale a word. Early layers often look alike for all words; where a word stands out sharply, the layer tells "
    "words apart. Step by step (from noise to image) a word's place usually settles before details appear."
)


def report_of(
    record: xr.Dataset,
    words: Sequence[Word],
    image: np.ndarray | None,
    defaults: ModelDefaults,
    why: Sequence[str],
    notes: Sequence[str] = (),
) -> Report:
    """Make a report.

    Args:
        record: (timestep, layer, ...) with region mass, value norms, head statistics and principal components.
        words: the words' maps; none where words are not known.
        image: (height, width, 3) uint8 RGB, None if it is not known.
        defaults: the model's.
        why: what was chosen, a sentence each.
        notes: what else is to be known first, a sentence each.
    """
    short, figures = figure_sections(record, image, defaults)
    parts = [("In short", _lines([*notes, *short]) + _details("What was read, and why", "".join(map(_paragraph, why))))]
    if words:
        shown = word_pictures(words, image) + words_table(words) + _how(_HOW_WORDS)
        parts.append(("Where the words are", shown))
        parts.append(("Word by word, layer by layer", tiles_table(words) + steps_table(words) + _how(_HOW_TILES)))
    parts += [(section.title, _of_section(section)) for section in figures]
    prompt = str(record.attrs.get("prompt", "")) or "(no prompt)"
    body = Template(_file("report.html")).substitute(
        prompt=html.escape(prompt),
        facts=html.escape(facts_of(record)),
        contents=" ".join(f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title, _ in parts),
        sections="\n".join(
            f'<section id="{_anchor(title)}"><h2>{html.escape(title)}</h2>{body}</section>' for title, body in parts
        ),
    )
    text = document(f"{prompt} - mmdit-probe report", _file("report.css"), body)
    return Report(text, tuple(short), tuple(figures))


def facts_of(record: xr.Dataset) -> str:
    """Model, tokens, timestep and seed in one line."""
    attrs: dict[Any, Any] = record.attrs
    sizes = " x ".join(str(int(size)) for size in np.atleast_1d(attrs["grid"]))
    timesteps = ", ".join(
        f"t = {int(timestep)} of {attrs['steps']} (sigma {float(sigma):.3f})"
        for timestep, sigma in zip(record["timestep"].values, record["sigma"].values, strict=True)
    )
    known = [str(attrs[name]) for name in ("model", "transformer") if attrs.get(name)]
    told = [*known, f"{sizes} image tokens, {attrs['text_tokens']} text tokens", timesteps]
    if "seed" in attrs:
        told.append(f"seed {attrs['seed']}")
    if attrs.get("unknown_words"):
        told.append(f"words that this model does not know: {attrs['unknown_words']}")
    return "; ".join(told)


def _of_section(section: Section) -> str:
    pictures = "".join(
        f'<img class="plot" alt="{html.escape(name)}" width="{width}" src="{uri}">'
        for name, uri, width in section.pictures()
    )
    return _lines(section.lines) + pictures + _how(section.how)


def _lines(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _how(text: str) -> str:
    return _details("How to read it", _paragraph(text))


def _details(title: str, body: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace(",", "")


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
