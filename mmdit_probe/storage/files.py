"""Writing and opening files: whole or not at all, and images looked at before they are unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.text import one_line

PART = ".part"
"""Ending of a file that is being written; one that is left over was cut short by a kill."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a file to write to that becomes ``path`` in the end: a kill or a full disk leaves the old one or the new one.

    `ValueError` says what is in the way: a full disk, a folder that can't be written.
    """
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ValueError(unwritable(path, error)) from error
    finally:
        part.unlink(missing_ok=True)


def unwritable(path: Path, error: Exception) -> str:
    """What is in the way of writing to ``path``, in one line."""
    why = getattr(error, "strerror", None) or one_line(str(error), 160)
    return f"{one_line(str(path), 160)} can't be written ({why}); make room or choose another --out"


def write_text(path: Path, text: str) -> Path:
    """Write a text file; a kill leaves the old one or the new one."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path
