"""Content fingerprints of images, labels and weights; a run resumes only if they match."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import repaired
from .run_file import RUN_FILE

if TYPE_CHECKING:
    import numpy as np

BLOCK, BLOCKS = 4096, 1024
"""Files of up to ``BLOCK * BLOCKS`` bytes (4 MB) are hashed whole; of larger ones ``BLOCKS`` evenly spaced blocks of ``BLOCK``
bytes are, at least one of which falls into every matrix of SD3's weights."""
_DIGITS = 12
_MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
"""Suffixes of weights, configs and vocabularies."""


def digest(things: Iterable[Path | str | np.ndarray]) -> str:
    """SHA-256 of files, texts and arrays in this order, as 64 hex digits.

    Of a file only its content counts, not its name, folder or date; `ValueError` if it can't be read.

    >>> digest(["a", "b"]) == digest(["ab"])
    False
    """
    together = hashlib.sha256()
    for thing in things:
        if isinstance(thing, Path):
            together.update(_of_file(thing))
        elif isinstance(thing, str):
            together.update(hashlib.sha256(b"text " + thing.encode("utf-8", "surrogateescape")).digest())
        else:
            kind = f"array {thing.dtype.str} {thing.shape} ".encode()
            together.update(hashlib.sha256(kind + thing.tobytes()).digest())
    return together.hexdigest()


def _of_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        own = hashlib.sha256(f"file {size} ".encode())
        with path.open("rb") as opened:
            if size <= BLOCK * BLOCKS:
                own.update(opened.read())
            else:
                for place in range(BLOCKS):
                    opened.seek((size - BLOCK) * place // (BLOCKS - 1))
                    own.update(opened.read(BLOCK))
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror or error})") from error
    return own.digest()


def model_fingerprint(source: str) -> str:
    """The name of a model or LoRA; if it is a local file or folder, followed by the first 12 digits of its digest.

    A model that was trained again has another fingerprint, a copy has the same.

    >>> model_fingerprint("stabilityai/stable-diffusion-3-medium-diffusers")
    'stabilityai/stable-diffusion-3-medium-diffusers'
    """
    path = Path(source)
    files = [path] if path.is_file() else []
    if path.is_dir():
        found = (
            file
            for file in (*path.glob("*"), *path.glob("*/*"))
            if not file.name.startswith(".") and file.name != RUN_FILE
        )
        files = sorted(file for file in found if file.suffix in _MODEL_SUFFIXES)
    if not files:
        return source
    named = (part for file in files for part in (file.relative_to(path).as_posix(), file))
    return f"{source} ({digest(named)[:_DIGITS]})"


def model_label(
    model: str,
    dtype: str,
    revision: str | None = None,
    lora: str | None = None,
    quantize: str = "none",
    variant: str | None = None,
) -> str:
    """One line that names everything about the model on which results depend; a run resumes only with the same label.

    >>> model_label("stabilityai/stable-diffusion-3-medium-diffusers", "bf16", revision="main", quantize="int8")
    'stabilityai/stable-diffusion-3-medium-diffusers, bf16, weights int8, revision main'
    """
    parts = [repaired(model_fingerprint(model)), dtype]
    if quantize != "none":
        parts.append(f"weights {quantize}")
    if revision is not None:
        parts.append(f"revision {revision}")
    if variant is not None:
        parts.append(f"variant {variant}")
    if lora:
        parts.append(f"LoRA {repaired(model_fingerprint(lora))}")
    return ", ".join(parts)
