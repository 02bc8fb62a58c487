"""Repeating a run: which options are written to run.json, and how ``--from`` reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer

from mmdit_probe.configs import EMBEDDED_MODELS

_OF_THIS_CALL = ("out", "overwrite", "from_run", "as_json", "part")
"""Options that are about one call alone, and are not repeated."""


def command_name(context: Any) -> str:
    """The command that typer's ``context`` is of, such as "magnet train"."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.append(context.info_name)
        context = context.parent
    return " ".join(reversed(names))


def recorded(given: Mapping[str, Any], places: Collection[str]) -> dict[str, Any]:
    """The options' values as plain data, from which the run can be repeated in any folder: files by their whole path.

    Args:
        given: the values by the options' names.
        places: names of those that may be a folder or something on the hub.
    """
    return {
        name: _plain(value, name in places)
        for name, value in given.items()
        if name not in _OF_THIS_CALL and value is not None
    }


def _plain(value: Any, is_place: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part, is_place) for part in value]
    if isinstance(value, Path):
        return str(value.absolute())
    if is_place and isinstance(value, str) and value not in EMBEDDED_MODELS:
        kind, colon, root = value.rpartition(":")  # folder:ROOT
        return f"{kind}{colon}{Path(root).absolute()}" if Path(root).exists() else value
    return value


def repeat(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of the run in ``path`` for the defaults of this call."""
    if path is not None:
        from mmdit_probe.storage.run_file import recorded_options

        context.default_map = recorded_options(path, command_name(context))
    return path
