"""Which layers a study takes: numbers, or a word that the model answers."""

from __future__ import annotations

from typing import Literal

from .setting import METHOD, Setting

Layers = tuple[int, ...] | Literal["all", "expert", "auto"]
"""Layer numbers from 0; all; the model's known expert layer; or one found by `find_expert` (on the command line)."""


def layers_setting(default: str | None = None) -> Setting:
    """The setting of layers; ``default`` says in words which are taken if none are given."""
    text = "Layers: numbers and ranges such as 9 or 3-7,10; all; expert (the model's known one); auto (finds one)."
    return Setting(text, METHOD, low=0, flags=("--layers", "--layer"), default=default)
