"""`from_pretrained` of diffusers and transformers without their notes, and with errors of one line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines import pipeline_utils
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from .hub import local_only, missing_on_hub

_DTYPE = "dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype"
"""What diffusers calls the dtype; before it knew ``dtype`` it left that out without a word."""


def dtype_option(dtype: torch.dtype, kind: Any = None) -> dict[str, torch.dtype]:
    """The option of `from_pretrained` that sets the dtype, of a pipeline or model of diffusers, or of the class ``kind``."""
    ours = not isinstance(kind, type) or kind.__module__.split(".")[0] == "diffusers"
    return {_DTYPE if ours else "dtype": dtype}


_NEWER = re.compile(r"module '?diffusers[\w.]*'? has no attribute '?(\w+)")
"""In errors about a class that the installed diffusers does not have."""


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Inside, the libraries print no notes, progress bars or deprecation warnings about loading; errors still raise."""
    libraries = (diffusers_logging, transformers_logging, hub_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()


def load_pretrained(what: str, kind: Any, source: str, **options: Any) -> Any:
    """An object of the class ``kind`` from a folder or a hub id.

    Args:
        what: names the part in error messages, such as "CLIP".
        kind: a class with `from_pretrained`.
        source: a folder, or a hub id.
        options: passed on to `from_pretrained`. Code that comes with a model runs only with ``trust_remote_code=True``.

    Raises:
        ValueError: it can't be loaded; one line that says why.
    """
    options = {"local_files_only": local_only(source), "trust_remote_code": False, **options}
    try:
        with quiet_loading():
            return kind.from_pretrained(source, **options)
    except Exception as error:
        raise ValueError(load_error(what, source, error)) from error


def load_error(what: str, source: str, error: Exception) -> str:
    """One line for the user about a part ``what`` that could not be loaded from ``source``."""
    text, name, part = " ".join(str(error).split()), type(error).__name__, f"{what} {source!r}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text.lower():
        return f"{part} does not fit into memory; try --dtype bf16, or a smaller model"
    if "Gated" in name or "gated repo" in text or "401" in text or "403" in text:
        return f"{part} needs access: accept its license on its hub page, then run `hf auth login`"
    newer = _NEWER.search(text)
    if newer:
        return (
            f"{part} needs {newer[1]}, which diffusers {diffusers.__version__} does not have; install a "
            "newer diffusers (pip install -U diffusers)"
        )
    absent = None if Path(source).exists() else missing_on_hub(source, error)
    if absent is not None:
        return f"{part} {absent}"
    if "safetensors" in text and ("Could not find" in text or "no file named" in text) and ".json" not in text:
        return (
            f"{part} lacks .safetensors weights of this name; a variant of them, such as fp16, is read by --variant; "
            f"pickle files (.bin) can run code and are not read: {text[:200]}"
        )
    if "Unpickling" in name:
        return f"{part} has its weights in pickle files (.bin), which can run code and are not read"
    if "trust_remote_code" in text:
        return f"{part} brings code of its own, which is not run; trust_remote_code=True would run it"
    return f"{part} could not be loaded: {name}: {text[:300]}"
