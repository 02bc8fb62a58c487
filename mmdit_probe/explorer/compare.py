"""Two explorer pages side by side in one file: two records, two models, one model with two LoRAs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from string import Template

from ..storage.pages import document
from .page import Page, part

SIDES = ("A", "B")


def side_by_side(pages: Sequence[Page], names: Sequence[str], differs: Sequence[str] = ()) -> Page:
    """One page that shows two in frames, which follow each other, with their numbers and the difference above them.

    Args:
        pages: two pages of `make_page`.
        names: what each is of, such as its model and prompt.
        differs: what the two say differently about themselves, a line each.

    Raises:
        ValueError: there are not two pages and two names.
    """
    if len(pages) != len(SIDES) or len(names) != len(SIDES):
        raise ValueError(f"explore: two pages stand side by side, got {len(pages)} with {len(names)} names")
    frames = [_frame(side, page, name) for side, page, name in zip(SIDES, pages, names, strict=True)]
    body = Template(part("compare.html")).substitute(
        script=part("compare.js"),
        data=json.dumps({"differs": list(differs)}).replace("<", "\\u003c"),
        frames="".join(frames),
    )
    text = document(f"{' | '.join(names)} - mmdit-probe explorer", part("compare.css"), body)
    return Page(text, min(page.groups for page in pages))


def _frame(side: str, page: Page, name: str) -> str:
    marked = page.text.replace('<html lang="en">', f'<html lang="en" data-side="{side}">', 1)
    title = html.escape(f"{side}: {name}")
    return f'<section><h2>{title}</h2><iframe title="{title}" srcdoc="{html.escape(marked)}"></iframe></section>'
