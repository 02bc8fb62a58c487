"""Writing and opening files: whole or not at all, and pictures looked at before they are unpacked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from .texts import one_line

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are unpacked."""
PART = ".part"
"""Ending of a file that is being written; one that is left over was cut short by a kill."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a file to write to that becomes ``path`` in the end: a kill or a full disk leaves the old one or the new one.

    `ValueError` says what is in the way: a full disk, a folder that can't be written.
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
    """What is in the way of writing to ``path``, in one line."""
    why = getattr(error, "strerror", None) or one_line(str(error), 160)
    return f"{one_line(str(path), 160)} can't be written ({why}); make room or choose another --out"


def write_text(path: Path, text: str) -> Path:
    """Write a text file; a kill leaves the old one or the new one."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


@contextmanager
def open_picture(path: Path, what: str = "image") -> Iterator[Image.Image]:
    """A picture file, not unpacked yet.

    `ValueError` of one line if it is missing, empty, damaged, no picture, or larger than `MAX_PIXELS`; what goes wrong
    while it is unpacked inside the with block too.
    """
    if not path.is_file():
        raise ValueError(f"{what}: no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{what}: {path} is empty; give a PNG, JPEG, WebP, BMP or TIFF file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes: checked here
            with Image.open(path) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"{what}: {path} has {opened.width} x {opened.height} px; {_LIMIT}")
                yield opened
    except Image.DecompressionBombError as error:
        raise ValueError(f"{what}: {path} is too large; {_LIMIT}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{what}: {path} is no picture that can be read; give a PNG, JPEG, WebP or TIFF file"
        ) from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{what}: {path} is damaged or cut short ({error}); save it again") from error


_LIMIT = f"at most {MAX_PIXELS} px are read, scale it down"
