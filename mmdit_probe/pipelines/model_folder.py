"""A pipeline's folder, checked before anything is loaded: all parts there, no file cut short, no pickles."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from ..families import T5_PARTS

_PICKLED = "has its weights in pickle files (.bin), which can run code; only .safetensors files are read"
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def check_folder(folder: Path) -> None:
    """`ValueError` if a pipeline's folder lacks a part, or one of its files is cut short."""
    index = folder / "model_index.json"
    if not index.is_file():
        kind = "folder: it has no model_index.json" if folder.is_dir() else "folder but a file"
        raise ValueError(f"load_pipeline: {str(folder)!r} is no diffusers pipeline {kind}")
    for file in (index, *folder.glob("*/*.json"), *folder.glob("*/*.safetensors")):
        _check_file(file)
    for part, kind in json.loads(index.read_text()).items():
        files = [file.name for file in (folder / part).glob("*")]
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


def _check_file(file: Path) -> None:
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        else:
            with safe_open(file, "pt"):  # reads the header and compares it with the file's length
                pass
    except Exception as error:
        raise ValueError(f"load_pipeline: {file} is damaged or cut short ({error}); copy it again") from error
