"""Writing files atomically: a file is complete or it is the old one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.text import one_line

PART = ".part"
"""Suffix of a file while it is written; a killed run may leave such a file."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which replaces ``path`` at the end of the with block.

    If the program is killed or the disk is full, ``path`` is either the complete new file or the old one, never a part.
    `ValueError` if the file can't be written.
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
    """The error message for a file that can't be written, in one line."""
    why = getattr(error, "strerror", None) or one_line(str(error), 160)
    return f"{one_line(str(path), 160)} can't be written ({why}); make room or choose another --out"


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file atomically; `ValueError` if that fails."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path
