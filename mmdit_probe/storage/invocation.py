"""The command that is running: what it was asked goes into every run.json, and its folders are held until it ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(eq=False)
class Invocation:
    """One call of a command.

    Attributes:
        command: its name, such as "magnet train".
        options: the value of each option that its results depend on, as plain data.
        overwrite: whether runs that its folders hold are to be replaced.
        folders: the settings of the runs that it has open, by folder.
    """

    command: str
    options: dict[str, Any]
    overwrite: bool = False
    folders: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    _held: ExitStack = field(default_factory=ExitStack)

    def hold(self, folder: Path, settings: Mapping[str, Any], opened: AbstractContextManager[Any]) -> None:
        """Enter ``opened``, which is left when the command ends; a folder that it has open already is not opened again."""
        place = folder.resolve()
        if place in self.folders:
            if self.folders[place] != settings:
                raise ValueError(f"{folder} is taken by another part of this command; choose another --out")
            return
        self._held.enter_context(opened)
        self.folders[place] = settings


_running: ContextVar[Invocation | None] = ContextVar("running", default=None)


def running_command() -> Invocation | None:
    """The command that is running; None in Python, in notebooks and in scripts of one's own."""
    return _running.get()


@contextmanager
def started(command: str, options: Mapping[str, Any], overwrite: bool = False) -> Iterator[Invocation]:
    """Inside, `running_command` is this one; its folders are given up at the end."""
    invocation = Invocation(command, dict(options), overwrite)
    before = _running.set(invocation)
    try:
        with invocation._held:
            yield invocation
    finally:
        _running.reset(before)
