"""How long runs report how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (items done, items in all) after each item: a prompt, an image, a batch, a layer."""
