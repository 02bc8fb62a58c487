"""Locking an output folder, so that two runs never write to it at the same time; parts of one run may."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .files import PART, unwritable

LOCK = ".lock"
BRIEFLY = 10.0
"""Seconds that a part waits for the others to begin."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock an output folder inside the with block; it is created if necessary, and removed again if it stays empty.

    Partly written files of a killed run are deleted. `ValueError` if another run holds the lock, or one of its parts is
    computed, or the folder is not writable.
    """
    folder = Path(folder)
    with _errors(folder):
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    try:
        with _errors(folder):
            for left in sorted(folder.glob(f"{LOCK}-*")):
                with FileLock(left, timeout=0):
                    left.unlink(missing_ok=True)
        for left in (*folder.glob(f"*{PART}"), *folder.glob(f"items/*{PART}")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        _tidy(folder, made)
        lock.release()


@contextmanager
def part_lock(folder: Path, part: str, begin: Callable[[], None]) -> Iterator[None]:
    """Lock one part of a run inside the with block, after ``begin``, during which no other part begins.

    `ValueError` if a run that is no part holds the folder, another process computes the same part, or it is not writable.
    """
    folder = Path(folder)
    own = FileLock(folder / f"{LOCK}-{part}", timeout=0)
    with _errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=BRIEFLY):
            own.acquire()
            try:
                begin()
            except BaseException:
                _give_up(own)
                raise
    try:
        yield
    finally:
        _give_up(own)


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Timeout as error:
        raise ValueError(f"{folder} is in use by another run; wait for it or choose another --out") from error
    except OSError as error:
        raise ValueError(unwritable(folder, error)) from error


def _give_up(lock: FileLock) -> None:
    with suppress(OSError):  # an open file can't be removed on every system; then it stays
        Path(lock.lock_file).unlink()
    lock.release()


def _tidy(folder: Path, made: Sequence[Path]) -> None:
    """Remove the lock file, and those of the folders ``made`` (innermost first) that are empty."""
    with suppress(OSError):  # an open file can't be removed on every system; then it stays
        (folder / LOCK).unlink()
    for empty in (folder / "items", *made):
        with suppress(OSError):  # not empty, or not there
            empty.rmdir()
