"""run.json: the settings of a run, the command that made it, and the files that it wrote; removing exactly those."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import read_text, write_text

RUN_FILE, ITEMS = "run.json", "items"
_OWN = "run"
"""The part of run.json that is not about settings."""


@dataclass
class RunFile:
    """What a run.json says.

    Attributes:
        settings: what the run's numbers depend on.
        files: the files that the run wrote next to run.json, relative to its folder; its items are not among them. A
            name that ends with "/" is a folder that is the run's as a whole.
        command: the command that made it, such as "magnet train"; None for runs of Python scripts.
        options: the value of each option of that command.
    """

    settings: dict[str, Any]
    files: list[str] = field(default_factory=list)
    command: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it atomically."""
        asked = {} if self.command is None else {"command": self.command, "options": self.options}
        write_text(folder / RUN_FILE, json.dumps({**self.settings, _OWN: {**asked, "files": self.files}}, indent=1))


def read_run(folder: Path) -> RunFile | None:
    """The run.json of a folder, None if it has none; `ValueError` if it is damaged."""
    file = folder / RUN_FILE
    try:
        if not file.is_file():
            return None
    except OSError:  # its name is too long, or its folder is locked: told when it is written to
        return None
    try:
        found = json.loads(read_text(file))
        if _OWN not in found:
            raise ValueError("no list of files")
        own = found.pop(_OWN)
        run = RunFile(found, own["files"], own.get("command"), own.get("options", {}))
        _check(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged, or of another version ({error}); choose another --out or delete the folder"
        ) from error
    return run


def earlier_run(folder: Path) -> RunFile | None:
    """The run whose work a folder holds; None if there is none, or one that was killed before it had finished anything."""
    run = read_run(folder)
    if run is None or not (has_items(folder) or any((folder / name).exists() for name in run.files)):
        return None
    return run


def has_items(folder: Path) -> bool:
    """Whether a run's folder holds finished items."""
    return any((folder / ITEMS).glob("*.nc"))


def _check(run: RunFile) -> None:
    """`ValueError` if a name could lie outside of the folder, or a part is not what it should be."""
    if not isinstance(run.options, Mapping) or not isinstance(run.command, str | None):
        raise ValueError("no command")
    for name in run.files:
        path = Path(name)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise ValueError(f"{name} is no file of the run")


def erase_run(folder: Path) -> None:
    """Remove the files of the run that a folder holds, and the folders that are empty then; all else stays.

    Runs in folders below it that it lists are removed in the same way.
    """
    run = read_run(folder)
    if run is None:
        return
    for name in run.files:
        path = folder / name
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            continue  # somebody has put a link there since
        if path.name == RUN_FILE:
            erase_run(path.parent)
        elif path.is_dir() and not path.is_symlink():
            if name.endswith("/"):
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        _remove_empty(path.parent, folder)
    for item in (folder / ITEMS).glob("*.nc"):
        item.unlink()
    _remove_empty(folder / ITEMS, folder)
    (folder / RUN_FILE).unlink()


def _remove_empty(path: Path, top: Path) -> None:
    with suppress(OSError):  # not empty, or not there
        while path != top:
            path.rmdir()
            path = path.parent


def recorded_options(path: Path, command: str) -> dict[str, Any]:
    """The options of the run in a run.json, or in a folder that holds one; `ValueError` if it is not one of ``command``."""
    folder = path if path.is_dir() else path.parent
    if path.name != RUN_FILE and path != folder:
        raise ValueError(f"--from-run: expected a {RUN_FILE} or a folder that holds one, got {path}")
    run = read_run(folder)
    if run is None:
        raise ValueError(f"--from-run: there is no file {folder / RUN_FILE}")
    if run.command is None:
        raise ValueError(
            f"--from-run: {folder / RUN_FILE} is of a run that no command made; it names no options to repeat"
        )
    if run.command != command:
        raise ValueError(
            f"--from-run: {folder / RUN_FILE} is of `mmdit-probe {run.command}`, not of `mmdit-probe {command}`"
        )
    return run.options
