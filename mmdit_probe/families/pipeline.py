"""What we require of a diffusers pipeline, and what stands inside one: the module that is probed, the device, defaults."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import ModelMixin
from torch import nn

from .modular import call_inputs, is_modular, steps_of

DENOISERS = ("transformer", "unet", "prior")
"""The names under which a pipeline holds the module that is probed."""


@runtime_checkable
class Pipeline(Protocol):
    """A text-to-image or text-to-video pipeline: it encodes prompts, and generates when called.

    Every `diffusers.DiffusionPipeline` of a supported family is one. A `diffusers.ModularPipeline` takes its place, though it has
    steps instead of `encode_prompt`. Only `families` reads its autoencoder, scheduler and
    device; all other packages call the functions of `families` that do. `isinstance` checks that the members exist.
    """

    vae: Any
    scheduler: Any

    @property
    def components(self) -> Mapping[str, Any]:
        """The models, tokenizers and the scheduler by name."""

    @property
    def _execution_device(self) -> torch.device: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate."""


class FamilyPipeline(Pipeline, Protocol):
    """A pipeline as its own family sees it, with all the attributes of its class."""

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """Text embeddings of prompts; arguments and results differ from class to class."""

    def __getattr__(self, name: str) -> Any: ...


_COMPILED = "_orig_mod"
_WRAPPED = (_COMPILED, "module", "_fsdp_wrapped_module", "base_model", "model")
"""Under which names wrappers hold the module: torch.compile, data parallelism and DeepSpeed, FSDP, PEFT (two of its own)."""


def unwrapped(module: Any) -> Any:
    """The module inside the wrappers of `torch.compile`, data parallelism, PEFT and the like; other objects unchanged."""
    while isinstance(module, nn.Module) and not isinstance(module, ModelMixin):
        name = next((name for name in _WRAPPED if isinstance(module._modules.get(name), nn.Module)), None)
        inner = None if name is None else module._modules[name]
        if inner is None or not (name == _COMPILED or any(isinstance(below, ModelMixin) for below in inner.modules())):
            return module
        _check_devices(module)
        module = inner
    return module


def _check_devices(module: nn.Module) -> None:
    """`ValueError` for a module that runs as several replicas, each in a thread of its own."""
    if isinstance(module, nn.DataParallel) and len(module.device_ids or ()) > 1:
        raise ValueError(
            f"Probe: DataParallel runs {len(module.device_ids)} replicas of the model in threads of their own, which a probe "
            f"can't follow; probe and call its .module on one device"
        )


def denoiser_of(pipe: Pipeline | nn.Module) -> Any:
    """The module that is probed: a pipeline's transformer or U-Net, without its wrappers.

    A module is returned unchanged, or without its wrappers.
    """
    if isinstance(pipe, nn.Module):
        return unwrapped(pipe)
    held = (getattr(pipe, name, None) for name in DENOISERS)
    return unwrapped(next((module for module in held if module is not None), pipe))


def holds(pipe: Any, transformer: Any) -> bool:
    """Whether a pipeline has this module, perhaps in a wrapper, among its components."""
    parts = getattr(pipe, "components", None)
    return (
        transformer is not None
        and isinstance(parts, Mapping)
        and any(unwrapped(part) is transformer for part in parts.values() if isinstance(part, nn.Module))
    )


def device_of(pipe: Pipeline) -> torch.device:
    """The device on which the models run; with CPU offload this is not where their weights wait."""
    return pipe._execution_device


def latent_pixels(pipe: Pipeline) -> int:
    """Width of a latent pixel in px: 8 for SD3."""
    factor = getattr(pipe, "vae_scale_factor", None)
    if factor is None:
        raise ValueError(f"{type(pipe).__name__} does not say how many px one latent pixel covers (vae_scale_factor)")
    return int(factor)


def default_latent_side(pipe: Pipeline) -> int | None:
    """Width, in latent pixels, of the images that the pipeline makes by default; None if it does not say."""
    side = getattr(pipe, "default_sample_size", None)
    return None if side is None else int(side)


def call_arguments(pipe: Pipeline, method: str = "__call__") -> Mapping[str, Any]:
    """The arguments of the pipeline's call, or of another method, with their defaults; None where there is none."""
    if is_modular(pipe):
        return call_inputs(pipe)
    parameters = inspect.signature(getattr(type(pipe), method)).parameters
    return {name: None if given.default is given.empty else given.default for name, given in parameters.items()}


def call_default(pipe: Pipeline, name: str, method: str = "__call__") -> Any:
    """The default of one argument of the pipeline's call, or of another method; None if there is none."""
    return call_arguments(pipe, method).get(name)


def makes_video(pipe: Pipeline) -> bool:
    """Whether the pipeline makes videos: its call takes a number of frames."""
    return "num_frames" in call_arguments(pipe)


def source_of(pipe: Pipeline) -> str:
    """The folder or hub id that a pipeline was loaded from; empty if it was made of parts."""
    name = "_pretrained_model_name_or_path" if is_modular(pipe) else "name_or_path"
    return str(getattr(pipe, name, None) or "")


def from_module(pipe: Pipeline, name: str) -> Any:
    """``name`` from the module that defines the pipeline's class, or from that of a base class; None if it is in neither.

    Of a modular pipeline, from the modules that define its steps.
    """
    owners = map(type, steps_of(pipe)) if is_modular(pipe) else type(pipe).__mro__
    modules = (sys.modules[owner.__module__] for owner in owners)
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def switch_lora(pipe: Pipeline, on: bool) -> None:
    """Let the pipeline compute with its LoRA, or without."""
    getattr(pipe, "enable_lora" if on else "disable_lora")()
