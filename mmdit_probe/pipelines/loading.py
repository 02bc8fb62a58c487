"""Loading pipelines: the embedded model, a folder or a hub id, with its dtype, device, offload, quantization and LoRA."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..configs.model import EMBEDDED, EMBEDDED_MODELS, Dtype, Offload, Quantize
from ..families import Pipeline, denoiser_of, unwrapped, without_t5
from ..utils.text import shown
from .hub import is_hub_id, local_only, missing_on_hub
from .model_folder import check_folder
from .modular_loading import ModularError, index_is_modular, index_of, load_modular
from .pretrained import dtype_option, load_error, quiet_loading
from .quantization import quantization

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_pipelines: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def embedded_folder(model: str = EMBEDDED) -> Path:
    """The folder of an embedded model; its neighbors hold the others, the small CLIP and the scene reader."""
    return Path(str(files("mmdit_probe"))) / "tiny" / "weights" / model


def load_pipeline(
    model: str = EMBEDDED,
    *,
    dtype: Dtype = "fp32",
    device: str = "cpu",
    revision: str | None = None,
    variant: str | None = None,
    t5: bool = False,
    offload: Offload = "none",
    lora: str | None = None,
    quantize: Quantize = "none",
    **options: Any,
) -> DiffusionPipeline:
    """A diffusers pipeline, ordinary or modular, ready to generate and to be probed.

    A modular one is made of the steps of diffusers, without those that rewrite prompts (Flux.3's). Code that comes with it, an
    offload or a quantization are refused: load it with `diffusers.ModularPipeline` then, and give that to the probe.

    Args:
        model: "tiny-sd3" or "tiny-flux" (embedded), a folder, or a hub id.
        dtype: fp32, bf16 or fp16.
        device: cpu, cuda, cuda:1, mps.
        revision: branch, tag or commit of a hub id.
        variant: which weights of a model are read that has several, such as "fp16" for files named ``*.fp16.safetensors``;
            ``dtype`` says what they become.
        t5: load SD3's T5 encoder; off as in the paper, which uses the CLIP encoders alone.
        offload: what waits in main memory until it is needed: "none", "model" (keeps one component on the GPU at a time)
            or "sequential" (one layer at a time: slow, least memory).
        quantize: the transformer's weights in fewer bits: "none", "int8" (torchao) or "nf4" (bitsandbytes, CUDA).
        lora: a LoRA's .safetensors file, folder or hub id, loaded on top.
        options: passed on to `DiffusionPipeline.from_pretrained`; none for a modular pipeline.

    Raises:
        ValueError: the model, dtype, device, offload, quantization or LoRA is not available; one line says what to do.

    >>> pipe = load_pipeline()  # the embedded model
    >>> type(pipe).__name__
    'StableDiffusion3Pipeline'
    >>> pipe("a red circle on grass", num_inference_steps=2).images[0].size
    (64, 64)
    """
    if dtype not in DTYPES:
        raise ValueError(f"load_pipeline: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    place = torch_device(device)
    _check_offload(offload, place)
    bits = quantization(quantize, DTYPES[dtype], place)
    source = str(embedded_folder(model)) if model in EMBEDDED_MODELS else model
    local = local_only(source)
    if lora is not None:
        _check_lora(lora)
    if revision is not None and Path(source).is_dir():
        raise ValueError(
            f"revision {shown(revision)} belongs to a hub id; {shown(model)} is a folder here, leave it out"
        )
    if not source or Path(source).exists():
        check_folder(Path(source), variant)
    try:
        with quiet_loading():
            index = index_of(source, revision, local)
            where: dict[str, Any] = {"revision": revision, "variant": variant}
            if index_is_modular(index):
                refused = {
                    *options,
                    *([] if quantize == "none" else ["quantize"]),
                    *([] if offload == "none" else ["offload"]),
                }
                pipe = load_modular(source, index, dtype=DTYPES[dtype], **where, t5=t5, local=local, refused=refused)
            else:
                options = {
                    **_SAFE,
                    **dtype_option(DTYPES[dtype]),
                    **bits,
                    **({} if t5 else without_t5(index)),
                    **options,
                }
                pipe = DiffusionPipeline.from_pretrained(source, **where, local_files_only=local, **options)
            if lora is not None:
                _load_lora(pipe, lora)
            _PLACING[offload](pipe, place)
    except (LoraError, ModularError) as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        raise ValueError(load_error("model", source, error)) from error
    pipe.set_progress_bar_config(disable=True)
    return register(pipe)


class LoraError(Exception):
    """A LoRA that can't be loaded; the text says why."""


def _check_offload(offload: Offload, place: torch.device) -> None:
    if offload not in _PLACING:
        raise ValueError(f"load_pipeline: offload must be one of {', '.join(_PLACING)}, got {offload!r}")
    if offload != "none" and place.type == "cpu":
        raise ValueError(f"load_pipeline: offload {offload!r} is for GPUs; add --device cuda, or leave it out")


_SAFE = {"use_safetensors": True, "trust_remote_code": False}
"""Pickled weights and code from the hub can do anything, so that only the caller's ``options`` can ask for them."""
_PLACING: Mapping[Offload, Callable[[DiffusionPipeline, torch.device], Any]] = {
    "none": lambda pipe, place: pipe.to(place),
    "model": lambda pipe, place: pipe.enable_model_cpu_offload(device=place),
    "sequential": lambda pipe, place: pipe.enable_sequential_cpu_offload(device=place),
}


def _check_lora(lora: str) -> None:
    """`ValueError` before the model is loaded, if a LoRA is plainly not there."""
    path = Path(lora)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        raise ValueError(f"lora: the folder {shown(lora)} holds no .safetensors file")
    if path.exists():
        return
    if lora.endswith(".safetensors"):
        raise ValueError(f"lora: no file {shown(lora)}")
    if "/" not in lora or not is_hub_id(lora):
        raise ValueError(f"lora: {shown(lora)} is neither a file or folder here nor a hub id such as OWNER/NAME")


def _load_lora(pipe: DiffusionPipeline, lora: str) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise LoraError(f"lora: {type(pipe).__name__} takes no LoRA; leave --lora out")
    try:
        pipe.load_lora_weights(lora, use_safetensors=True, local_files_only=local_only(lora))
    except Exception as error:
        absent = None if Path(lora).exists() else missing_on_hub(lora, error)
        if absent is not None:
            raise LoraError(f"lora: {lora!r} {absent}") from error
        text = " ".join(str(error).split())
        raise LoraError(f"lora: {lora!r} could not be loaded into {type(pipe).__name__}: {text[:200]}") from error


def register(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """Remember the pipeline, so that a `Probe` of its transformer finds the prompt's tokens."""
    _pipelines[denoiser_of(pipe)] = weakref.ref(pipe)
    return pipe


def pipeline_of(transformer: Pipeline | nn.Module) -> Any:
    """A pipeline itself, also a modular one or the user's own; of a transformer, that from which `load_pipeline` has it.

    None for a transformer that `load_pipeline` did not load: it does not know its pipeline.
    """
    if not isinstance(transformer, nn.Module):
        return transformer
    known = _pipelines.get(unwrapped(transformer))
    return known() if known is not None else None


def torch_device(name: str) -> torch.device:
    """The device; `ValueError` if this machine does not have it."""
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
