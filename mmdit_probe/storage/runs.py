"""Output folders of long runs: items are written one by one, atomically, and never computed twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

from .files import PART, unwritable, write_text
from .records import load_record, save_record

LOCK = ".lock"


class RunFolder:
    """A folder that holds one run: ``run.json`` says which, ``items/`` what is finished.

    Opened again with the same settings it continues; with others it refuses.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Hold the folder; `ValueError` if another run has it, if it holds other settings or can't be written.

        What a kill left half-written is taken away. A run that ends before anything is finished leaves nothing.
        """
        with held_folder(self.folder):
            fresh = self._check_settings()
            try:
                yield self
            except BaseException:
                if fresh and not self._holds_work():
                    (self.folder / "run.json").unlink(missing_ok=True)
                raise

    def _holds_work(self) -> bool:
        """Whether something is finished: an item, or a file that the study writes itself."""
        own = {"run.json", "items", LOCK}
        return any((self.folder / "items").iterdir()) or any(path.name not in own for path in self.folder.iterdir())

    def _check_settings(self) -> bool:
        """Whether the run begins here, and not where another one was interrupted."""
        file = self.folder / "run.json"
        (self.folder / "items").mkdir(exist_ok=True)
        if not file.exists():
            write_text(file, json.dumps(self.settings, indent=1))
            return True
        try:
            found = json.loads(file.read_text())
            if not isinstance(found, dict):
                raise ValueError(f"{type(found).__name__} instead of settings")
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is damaged; choose another --out or delete the folder") from error
        if found != self.settings:
            names = sorted(key for key in {*found, *self.settings} if found.get(key) != self.settings.get(key))
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(names)}); choose another --out or delete it"
            )
        return False

    def item(self, name: str) -> xr.Dataset | None:
        """A finished item, or None; an unreadable one counts as not finished."""
        try:
            return load_record(self._path(name))
        except ValueError:
            return None

    def write(self, name: str, dataset: xr.Dataset) -> None:
        """Finish an item."""
        save_record(dataset, self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / "items" / f"{name}.nc"


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold an output folder, made if need be, against other runs; one that stays empty is taken away again.

    `ValueError` if another run has it or it can't be written.
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
    """Remove the lock, and of the folders that were ``made``, innermost first, those that are empty."""
    with suppress(OSError):  # where an open file can't be removed, it stays
        (folder / LOCK).unlink()
    for empty in (folder / "items", *made):
        with suppress(OSError):  # not empty, or not there
            empty.rmdir()
