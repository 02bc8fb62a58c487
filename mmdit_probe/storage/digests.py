"""What tells images, labels and weights from others of the same name: a run is continued only with the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BLOCK, PLACES = 4096, 1024
"""Files of up to 4 MB are read whole; of larger ones as many blocks of 4 kB as these, evenly spread, which touch every
matrix of SD3's weights."""
_DIGITS = 12
_MODEL = (".safetensors", ".json", ".txt", ".model")
"""Endings of weights, settings and vocabularies."""


def digest(things: Iterable[Path | str | np.ndarray]) -> str:
    """64 hex digits of the contents of files (not their names, places or dates), texts and arrays, in this order.

    `ValueError` if a file can't be read.
    """
    together = hashlib.sha256()
    for thing in things:
        if isinstance(thing, Path):
            together.update(_of_file(thing))
        elif isinstance(thing, str):
            together.update(hashlib.sha256(b"text " + thing.encode()).digest())
        else:
            kind = f"array {thing.dtype.str} {thing.shape} ".encode()
            together.update(hashlib.sha256(kind + thing.tobytes()).digest())
    return together.hexdigest()


def _of_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        own = hashlib.sha256(f"file {size} ".encode())
        with path.open("rb") as opened:
            if size <= BLOCK * PLACES:
                own.update(opened.read())
            else:
                for place in range(PLACES):
                    opened.seek((size - BLOCK) * place // (PLACES - 1))
                    own.update(opened.read(BLOCK))
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror or error})") from error
    return own.digest()


def model_fingerprint(source: str) -> str:
    """A model or LoRA in words: its name, and the first digits of its digest where it is a file or folder here.

    One that was trained anew has other digits, a copy has the same.
    """
    path = Path(source)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in (*path.glob("*"), *path.glob("*/*")) if file.suffix in _MODEL)
    if not files:
        return source
    return f"{source} ({digest(x for file in files for x in (file.relative_to(path).as_posix(), file))[:_DIGITS]})"


def model_label(
    model: str, dtype: str, revision: str | None = None, lora: str | None = None, quantize: str = "none"
) -> str:
    """What a model's numbers depend on, in words: an output folder is continued only with the same."""
    parts = (
        [model_fingerprint(model), dtype]
        if quantize == "none"
        else [model_fingerprint(model), dtype, f"weights {quantize}"]
    )
    if revision is not None:
        parts.append(f"revision {revision}")
    if lora:
        parts.append(f"LoRA {model_fingerprint(lora)}")
    return ", ".join(parts)
