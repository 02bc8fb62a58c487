"""A pipeline's folder, checked before anything is loaded: all parts there, no file cut short, no pickles."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open

from ..families import T5_PARTS
from ..storage.files import read_text
from .modular_loading import INDEX, MODULAR_INDEX, parts_in

_PICKLED = "has its weights in pickle files (.bin), which can run code; only .safetensors files are read"
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def check_folder(folder: Path, variant: str | None = None) -> None:
    """`ValueError` if a pipeline's folder lacks a part or the ``variant`` of its weights, or one of its files is cut short."""
    index = next((folder / name for name in (INDEX, MODULAR_INDEX) if (folder / name).is_file()), None)
    if index is None:
        kind = f"folder: it has no {INDEX} or {MODULAR_INDEX}" if folder.is_dir() else "folder but a file"
        raise ValueError(f"load_pipeline: {str(folder)!r} is no diffusers pipeline {kind}")
    for file in (index, *folder.glob("*/*.json"), *folder.glob("*/*.safetensors")):
        if not file.name.startswith("."):
            _check_file(file)
    found = set()
    for part, kind in parts_in(folder, index).items():
        files = [file.name for file in (folder / part).glob("*") if not file.name.startswith(".")]
        if any(name.endswith(".bin") for name in files) and not any(name.endswith(".safetensors") for name in files):
            raise ValueError(f"load_pipeline: {folder / part} {_PICKLED}")
        listed = not part.startswith("_") and isinstance(kind, list) and None not in kind
        needed = listed and part not in T5_PARTS  # loaded only if asked for
        if needed and not files:
            raise ValueError(f"load_pipeline: {folder} lacks its part {part}; copy the model again")
        if needed and part.startswith("tokenizer") and not any(name in _VOCABULARIES for name in files):
            raise ValueError(
                f"load_pipeline: {folder / part} has no vocabulary ({_VOCABULARIES[0]}); copy the model again"
            )
        variants = {_variant(name) for name in files if name.endswith(".safetensors")}
        found |= variants
        if needed and variant is None and variants and None not in variants:
            known = " or ".join(sorted(map(str, variants)))
            raise ValueError(
                f"load_pipeline: {folder / part} has its weights as the variant {known} alone; add --variant {known} "
                f"(in Python variant={known!r})"
            )
    if variant is not None and variant not in found:
        known = ", ".join(sorted(filter(None, found))) or "none"
        raise ValueError(f"load_pipeline: {folder} has no weights of the variant {variant!r}; it has {known}")


def _variant(name: str) -> str | None:
    """The variant in the name of a file of weights, such as "fp16"; None for the plain ones.

    >>> _variant("model.fp16.safetensors"), _variant("model-00001-of-00002.safetensors")
    ('fp16', None)
    """
    parts = re.sub(r"-\d+-of-\d+", "", name).split(".")
    return parts[1] if len(parts) > 2 else None


def _check_file(file: Path) -> None:
    try:
        if file.suffix == ".json":
            json.loads(read_text(file))
        else:
            with safe_open(file, "pt"):  # reads the header and compares it with the file's length
                pass
    except Exception as error:
        raise ValueError(f"load_pipeline: {file} is damaged or cut short ({error}); copy it again") from error
