"""The formats of figures."""

from __future__ import annotations

from collections.abc import Sequence

from .setting import OUTPUT, Setting

FORMATS = ("pdf", "png")
"""Those that are written if none is named: one for papers, one to look at."""
KNOWN = ("pdf", "png", "svg")

FORMAT = Setting(
    "Formats of the figures, separated by commas: pdf, png, svg; each is a drawing of its own.",
    OUTPUT,
    flags=("--format",),
    commas=True,
)


def formats_of(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The formats that an option's texts name; `FORMATS` if there is none.

    >>> formats_of(["png,svg"]), formats_of(None)
    (('png', 'svg'), ('pdf', 'png'))
    """
    named = (part.strip() for text in texts or () for part in text.split(","))
    return tuple(dict.fromkeys(part for part in named if part)) or FORMATS


def check_formats(formats: tuple[str, ...]) -> None:
    """`ValueError` if a format is unknown, or there is none."""
    unknown = [name for name in formats if name not in KNOWN]
    if unknown or not formats:
        raise ValueError(f"--format must be some of {', '.join(KNOWN)}, got {', '.join(unknown) or 'none'}")
