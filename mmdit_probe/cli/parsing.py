"""Values that options take as text: numbers and ranges, layers, timesteps, words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmdit_probe.configs import LARGEST_SEED
from mmdit_probe.utils.text import shown

_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")
_MOST = 100_000
"""Numbers that a range may stand for."""


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers and ranges separated by commas, in order, each once.

    >>> numbers("3-5,10")
    (3, 4, 5, 10)
    """
    found: list[int] = []
    for part in text.split(","):
        found += _range(part, text)
    if max(map(abs, found)) > LARGEST_SEED:
        raise ValueError(f"numbers can be {LARGEST_SEED} at most, got {shown(text)}")
    return tuple(dict.fromkeys(found))


def _range(part: str, text: str) -> Sequence[int]:
    match = _RANGE.fullmatch(part)
    try:
        if match is None:
            return [int(part)]
        first, last = int(match[1]), int(match[2])
    except ValueError:
        raise ValueError(
            f"expected numbers separated by commas, such as 8,28, or ranges such as 3-7; got {shown(text)}"
        ) from None
    if last < first or last - first >= _MOST:
        raise ValueError(f"a range goes from its smaller number to its larger one, such as 3-7; got {shown(part)}")
    return range(first, last + 1)


def decimals(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, in order, each once."""
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"expected numbers separated by commas, such as 0,1.5; got {shown(text)}") from None


def layers_or_word(text: str) -> Any:
    """Layer numbers, or one of the words all, expert, auto."""
    return _or_word(text, ("all", "expert", "auto"))


def timesteps_or_all(text: str) -> Any:
    """Timesteps, or the word all."""
    return _or_word(text, ("all",))


def _or_word(text: str, known: tuple[str, ...]) -> Any:
    word = text.strip().lower()
    if word in known:
        return word
    try:
        return numbers(text)
    except ValueError as error:
        raise ValueError(f"{error}; or one of {', '.join(known)}") from None


def words(texts: Sequence[str]) -> tuple[str, ...]:
    """Words and phrases separated by commas, without the spaces around them."""
    return tuple(part.strip() for text in texts for part in text.split(","))
