"""A U-Net's prompts: positions of class names, and words with a weight."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from ..families import Pipeline, text_parts_of
from ..pipelines.prompts import positions_of

BACKGROUND = "background"
"""The class that gets a value of its own instead of a word in the prompt."""


def spans_in(pipe: Pipeline, prompt: str, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Token positions of each name in the prompt, in which the names stand in this order.

    `ValueError` if a name is not found, or reaches behind the tokenizer's last position.
    """
    part, start, ranges = text_parts_of(pipe)[0], 0, []
    for name in names:
        found = _word(name).search(prompt, start)
        ranges.append((0, 0) if found is None else found.span())
        start = start if found is None else found.end()
    spans = positions_of(part, prompt, ranges)
    lasts = positions_of(part, prompt, [(end - 1, end) for _, end in ranges])
    for name, (_, end), last in zip(names, ranges, lasts, strict=True):
        if not end or not last:
            raise ValueError(
                f"classes: {name!r} was not found in the first {part.length} tokens of the prompt "
                f"{prompt[:60]!r}...; offer fewer classes, or shorter names"
            )
    return [tuple(span) for span in spans]


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


def ing_token(pipe: Pipeline, prompt: str, name: str) -> list[int]:
    """Position of the first token of the word behind a name if that word ends in "ing", as "running" in "a dog running"."""
    found = _word(name).search(prompt)
    behind = None if found is None else re.compile(r"\s+(\S+)").match(prompt, found.end())
    if behind is None or not behind[1].endswith("ing"):
        return []
    return positions_of(text_parts_of(pipe)[0], prompt, [behind.span(1)])[0][:1]


def weighted(
    features: Float[Tensor, "1 tokens width"],
    spans: Sequence[Sequence[int]],
    weight: float,
    empty: Float[Tensor, "1 tokens width"] | None = None,
) -> Float[Tensor, "1 tokens width"]:
    """Some positions' features times ``weight``; with ``empty``, their difference from the empty prompt's instead."""
    changed = features.clone()
    for span in spans:
        places = list(span)
        base = 0 if empty is None else empty[:, places]
        changed[:, places] = base + weight * (features[:, places] - base)
    return changed


def split_background(classes: Sequence[str]) -> tuple[list[str], int | None]:
    """The class names without background, and background's position, None if it is not offered."""
    words = [name for name in classes if name != BACKGROUND]
    return words, (list(classes).index(BACKGROUND) if len(words) < len(classes) else None)
