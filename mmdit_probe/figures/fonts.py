"""Characters that matplotlib's own font lacks: a font of the system that has them, or a warning that names them."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

OWN = "DejaVu Sans"
OPEN_CJK = (
    "Noto Sans CJK",
    "Source Han Sans",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "WenQuanYi",
    "Droid Sans Fallback",
    "IPA",
    "Nanum",
    "Unifont",
)
"""Open fonts with Chinese, Japanese or Korean characters, by the beginning of their names; the first one found is taken."""
_log = logging.getLogger(__name__)
_named: set[str] = set()


@lru_cache(maxsize=1)
def cjk_font() -> tuple[str, str] | None:
    """Name and file of an open CJK font of this system, None if there is none."""
    known = {entry.name: entry.fname for entry in reversed(font_manager.fontManager.ttflist)}
    for beginning in OPEN_CJK:
        for name in sorted(known):
            if name.startswith(beginning) and "Mono" not in name:
                return name, known[name]
    return None


def families() -> list[str]:
    """Font families for all text: matplotlib's own, and an open CJK font for what it lacks."""
    found = cjk_font()
    return [OWN] if found is None else [OWN, found[0]]


@lru_cache(maxsize=4)
def _characters(file: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(file).get_charmap())


def needs_more(text: str) -> bool:
    """Whether a text has characters that matplotlib's own font lacks."""
    own = _characters(font_manager.findfont(OWN))
    return any(ord(character) not in own and not character.isspace() for character in text)


def warn_of_missing(text: str) -> None:
    """Say, once for each character, which characters of a text no font here has: they are drawn as boxes."""
    found = cjk_font()
    known = _characters(font_manager.findfont(OWN)) | (_characters(found[1]) if found else frozenset())
    missing = [one for one in dict.fromkeys(text) if ord(one) not in known and not one.isspace() and one not in _named]
    if not missing:
        return
    _named.update(missing)
    why = (
        "this system has no open CJK font; install one, such as Noto Sans CJK"
        if found is None
        else f"nor has {found[0]}"
    )
    listed = ", ".join(f"{one} (U+{ord(one):04X})" for one in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    _log.warning("figures: %s%s will be drawn as boxes: %s lacks them, %s", listed, more, OWN, why)


def text_of(figure: Figure) -> str:
    """All text of a figure."""
    return "".join(part.get_text() for part in figure.findobj(Text))


def cjk_file() -> Path | None:
    """The file of `cjk_font`."""
    found = cjk_font()
    return None if found is None else Path(found[1])
