"""Settings that take one of a few words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args


def check_choice(name: str, value: object, choices: Any | Iterable[str]) -> None:
    """`ValueError` if ``value`` is not one of ``choices``, a Literal type or the words themselves.

    >>> from typing import Literal
    >>> check_choice("crop", "center", Literal["stretch", "center"])
    >>> check_choice("crop", "left", ("stretch", "center"))
    Traceback (most recent call last):
    ...
    ValueError: crop must be one of stretch, center, got 'left'
    """
    known = get_args(choices) or tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
