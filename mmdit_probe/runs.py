"""Output folders of long runs: items are written one by one, atomically, and never computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from filelock import FileLock, Timeout

from .records import load_record, save_record


class RunFolder:
    """A folder that holds one run: ``run.json`` says which, ``items/`` what is finished.

    Opened again with the same settings it continues; with others it refuses.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Hold the folder; `ValueError` if another run has it, if it holds other settings or can't be written."""
        try:
            (self.folder / "items").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            with lock:
                self._check_settings()
                yield self
        except Timeout as error:
            raise ValueError(f"{self.folder} is in use by another run; wait for it or choose another --out") from error
        except OSError as error:
            raise ValueError(
                f"{self.folder} can't be written ({error.strerror or error}); choose another --out"
            ) from error

    def _check_settings(self) -> None:
        file = self.folder / "run.json"
        if not file.exists():
            write_text(file, json.dumps(self.settings, indent=1))
            return
        try:
            found = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is damaged; choose another --out or delete the folder") from error
        if found != self.settings:
            names = sorted(key for key in {*found, *self.settings} if found.get(key) != self.settings.get(key))
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(names)}); choose another --out or delete it"
            )

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


def write_text(path: Path, text: str) -> Path:
    """Write a text file; a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
