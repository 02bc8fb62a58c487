"""Reading text as it is found, and writing files atomically: a file is complete or it is the old one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.text import one_line, repaired

PART = ".part"
"""Suffix of a file while it is written; a killed run may leave such a file."""
watchers: list[Callable[[Path, bool], bool]] = []
"""Told of each file (or, if the second argument is True, folder) before it is written, the last one first, until one returns
True: see `RunFolder`."""


def announce(path: Path, is_folder: bool = False) -> None:
    """Tell the run that is open around a file that it is about to be written; `atomic_write` does so itself.

    A folder is announced if all that it will hold is the run's.
    """
    any(watcher(path, is_folder) for watcher in reversed(watchers))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which replaces ``path`` at the end of the with block.

    If the program is killed or the disk is full, ``path`` is either the complete new file or the old one, never a part.
    `ValueError` if the file can't be written, or belongs to nobody's run but stands in the folder of one.
    """
    part = path.with_name(path.name + PART)
    announce(path)
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
        part.write_text(repaired(text), encoding="utf-8")
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, its line ends as "\\n", without byte order marks: files that were joined hold several."""
    return path.read_text(encoding="utf-8").replace("\ufeff", "")
