"""Locking an output folder, so that two runs never write to it at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import PART, unwritable

LOCK = ".lock"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock an output folder inside the with block; it is created if necessary, and removed again if it stays empty.

    Partly written files of a killed run are deleted. `ValueError` if another run holds the lock or the folder is not writable.
    """
    folder = Path(folder)
    try:
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder} is in use by another run; wait for it or choose another --out") from error
    except OSError as error:
        raise ValueError(unwritable(folder, error)) from error
    try:
        for left in (*folder.glob(f"*{PART}"), *folder.glob(f"items/*{PART}")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        _tidy(folder, made)
        lock.release()


def _tidy(folder: Path, made: Sequence[Path]) -> None:
    """Remove the lock file, and those of the folders ``made`` (innermost first) that are empty."""
    with suppress(OSError):  # an open file can't be removed on every system; then it stays
        (folder / LOCK).unlink()
    for empty in (folder / "items", *made):
        with suppress(OSError):  # not empty, or not there
            empty.rmdir()
