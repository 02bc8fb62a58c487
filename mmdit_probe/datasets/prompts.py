"""Prompts from the synthetic scenes or from a text file."""

from __future__ import annotations

from pathlib import Path

from ..storage.files import read_text
from .scenes import scenes


def scene_prompts(count: int = 20) -> tuple[str, ...]:
    """The full sentences of the first ``count`` test scenes.

    >>> scene_prompts(1)
    ('a blue square on lava under sand',)
    """
    return tuple(scene.sentence() for scene in scenes("test", count))


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts, one a line; blank lines and lines that start with # are skipped.

    `ValueError` if the file is missing, is not UTF-8 text, or holds no prompt.
    """
    try:
        lines = read_text(Path(path)).splitlines()
    except OSError as error:
        raise ValueError(f"prompts: {path} can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"prompts: {path} can't be read as text ({type(error).__name__}); give a UTF-8 text file"
        ) from error
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise ValueError(f"prompts: {path} holds no prompt; write one a line")
    return prompts
