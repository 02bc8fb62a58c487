"""Loading pipelines: the embedded model, a folder or a hub id; and what a pipeline's transformer needs."""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import logging as hub_logging
from safetensors import safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from ..families import denoiser_of
from ..utils.text import shown
from .quantization import quantization

EMBEDDED = "tiny-sd3"
Offload = Literal["none", "model", "sequential"]
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_pipelines: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def embedded_folder() -> Path:
    """The folder of the embedded model."""
    return Path(str(files("mmdit_probe"))) / "tiny" / "weights" / EMBEDDED


def load_pipeline(
    model: str = EMBEDDED,
    *,
    dtype: str = "fp32",
    device: str = "cpu",
    revision: str | None = None,
    t5: bool = False,
    offload: Offload = "none",
    lora: str | None = None,
    quantize: str = "none",
    **options: Any,
) -> DiffusionPipeline:
    """A ready pipeline.

    Args:
        model: "tiny-sd3" (embedded), a folder, or a hub id.
        dtype: fp32, bf16 or fp16.
        device: cpu, cuda, cuda:1, mps.
        revision: branch, tag or commit of a hub id.
        t5: load SD3's T5 encoder; off as in the paper, which uses the CLIP encoders alone.
        offload: what stays in main memory until it is needed: "none", "model" (one model of the pipeline at a time on
            the GPU) or "sequential" (one layer at a time: slow, in little memory).
        quantize: weights of the transformer in fewer bits: "none", "int8" (torchao) or "nf4" (bitsandbytes, CUDA).
        lora: a LoRA's .safetensors file, folder or hub id, loaded on top.
        options: passed on to `DiffusionPipeline.from_pretrained`.

    Raises:
        ValueError: the model, dtype, device, offload or LoRA cannot be had; one line says what to do.
    """
    if dtype not in DTYPES:
        raise ValueError(f"load_pipeline: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    place = torch_device(device)
    _check_offload(offload, place)
    bits = quantization(quantize, DTYPES[dtype], place)
    source = str(embedded_folder()) if model == EMBEDDED else model
    local = Path(source).is_dir()
    if revision is not None and local:
        raise ValueError(
            f"revision {shown(revision)} belongs to a hub id; {shown(model)} is a folder here, leave it out"
        )
    if local or Path(source).exists():
        check_folder(Path(source))
    try:
        with quiet_loading():
            options = {**_without_t5(source, revision, local, t5), **options}
            pipe = DiffusionPipeline.from_pretrained(
                source, dtype=DTYPES[dtype], revision=revision, local_files_only=local, **{**_SAFE, **bits, **options}
            )
            if lora is not None:
                _load_lora(pipe, lora)
            _PLACING[offload](pipe, place)
    except LoraError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        raise ValueError(_explained(model, error)) from error
    pipe.set_progress_bar_config(disable=True)
    return register(pipe)


class LoraError(Exception):
    """A LoRA that cannot be loaded; the text says why."""


def _check_offload(offload: str, place: torch.device) -> None:
    if offload not in _PLACING:
        raise ValueError(f"load_pipeline: offload must be one of {', '.join(_PLACING)}, got {offload!r}")
    if offload != "none" and place.type == "cpu":
        raise ValueError(f"load_pipeline: offload {offload!r} is for GPUs; add --device cuda, or leave it out")


_PLACING: Mapping[str, Callable[[Any, torch.device], Any]] = {
    "none": lambda pipe, place: pipe.to(place),
    "model": lambda pipe, place: pipe.enable_model_cpu_offload(device=place),
    "sequential": lambda pipe, place: pipe.enable_sequential_cpu_offload(device=place),
}


def _load_lora(pipe: Any, lora: str) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise LoraError(f"lora: {type(pipe).__name__} takes no LoRA; leave --lora out")
    if lora.endswith(".safetensors") and not Path(lora).is_file():
        raise LoraError(f"lora: no file {shown(lora)}")
    try:
        pipe.load_lora_weights(lora, use_safetensors=True)
    except Exception as error:
        text = " ".join(str(error).split())
        raise LoraError(f"lora: {lora!r} could not be loaded into {type(pipe).__name__}: {text[:200]}") from error


def register(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Make the pipeline known, so that a `Probe` of its transformer knows the prompt's tokens."""
    _pipelines[denoiser_of(pipe)] = weakref.ref(pipe)
    return pipe


def pipeline_of(transformer: Any) -> Any:
    """A pipeline itself, or the pipeline from which `load_pipeline` has a transformer; None if it is unknown.

    A transformer does not know its pipeline: one that diffusers' own `from_pretrained` loaded is not found.
    """
    if isinstance(transformer, DiffusionPipeline):
        return transformer
    known = _pipelines.get(getattr(transformer, "_orig_mod", transformer))
    return known() if known is not None else None


def torch_device(name: str) -> torch.device:
    """The device; `ValueError` if this machine has none such."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: {name!r} is not a device; use cpu, cuda, cuda:0, mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {name!r} was asked for, but PyTorch sees no CUDA GPU here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {name!r} was asked for, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on"
        )
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"device: nothing can be computed on {name!r} here ({error}); use --device cpu") from error
    return device


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the libraries' notes, bars and deprecation warnings about loading; errors still raise."""
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


def _without_t5(source: str, revision: str | None, local: bool, t5: bool) -> dict[str, None]:
    config = DiffusionPipeline.load_config(source, revision=revision, local_files_only=local)
    if t5 or "text_encoder_3" not in config or not str(config.get("_class_name", "")).startswith("StableDiffusion3"):
        return {}
    return {"text_encoder_3": None, "tokenizer_3": None}


def check_folder(folder: Path) -> None:
    """`ValueError` if a pipeline's folder lacks a part, or a file of it is cut short."""
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
        needed = not part.startswith("_") and isinstance(kind, list) and None not in kind and part not in _T5
        if needed and not files:
            raise ValueError(f"load_pipeline: {folder} lacks its part {part}; copy the model again")
        if needed and part.startswith("tokenizer") and not any(name in _VOCABULARIES for name in files):
            raise ValueError(
                f"load_pipeline: {folder / part} has no vocabulary ({_VOCABULARIES[0]}); copy the model again"
            )


_PICKLED = "has its weights in pickle files (.bin), which can run code; only .safetensors files are read"
_T5 = ("text_encoder_3", "tokenizer_3")  # left out if it is not asked for
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_SAFE = {"use_safetensors": True, "trust_remote_code": False}
"""Weights in pickle files and code from the hub could do anything; only the caller's ``options`` can ask for them."""


def _check_file(file: Path) -> None:
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        else:
            with safe_open(file, "pt"):  # reads the header and compares it with the file's length
                pass
    except Exception as error:
        raise ValueError(f"load_pipeline: {file} is damaged or cut short ({error}); copy it again") from error


def _explained(model: str, error: Exception) -> str:
    text, name = " ".join(str(error).split()), type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text.lower():
        return f"model {model!r} does not fit into memory; try --dtype bf16, or a smaller model"
    if "Gated" in name or "gated repo" in text or "401" in text or "403" in text:
        return f"model {model!r} needs access: accept its licence on its hub page, then run `hf auth login`"
    if "safetensors" in text and ("Could not find" in text or "no file named" in text) and ".json" not in text:
        return f"model {model!r} lacks .safetensors weights; pickle files (.bin) can run code and are not read: {text[:200]}"
    if "trust_remote_code" in text:
        return f"model {model!r} brings code of its own, which is not run; load_pipeline(..., trust_remote_code=True) would"
    if not Path(model).exists() and model != EMBEDDED and isinstance(error, OSError | ValueError):
        return (
            f"model {model!r} is neither a folder here nor a hub id that can be reached; check the name and the network"
        )
    return f"model {model!r} could not be loaded: {name}: {text[:300]}"
