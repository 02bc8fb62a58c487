"""What a command holds until it ends."""

from __future__ import annotations

from contextlib import ExitStack

held = ExitStack()
"""The messages of its memory and of its fonts."""


def release() -> None:
    """The command has ended: give up what it held."""
    held.close()
