"""The families of transformers: the only place that knows diffusers' class and attribute names.

A new model is one entry: which modules are its attention layers, how its tokens lie, and what its timestep
argument means.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from .aura_flow import AURA_FLOW
from .cross_attention import CROSS_ATTENTION, UNET_SELF, UNetPlace, output_projection, unet_places
from .family import PLAIN, Family, Inputs, TextPart, named_inputs
from .flux import FLUX
from .generic import generic_family
from .image_input import ImageInput, call_default, device_of
from .latents import LATENTS
from .qwen import QWEN
from .single_stream import SINGLE_STREAM
from .stable_diffusion import STABLE_DIFFUSION_3
from .video import VIDEO

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION_3,
    *FLUX,
    *QWEN,
    AURA_FLOW,
    *VIDEO,
    *SINGLE_STREAM,
    *LATENTS,
    *CROSS_ATTENTION,
)


def family_of(transformer: nn.Module) -> Family:
    """The family of a transformer, a made-up one if its class is unknown; `ValueError` if it has no attention blocks."""
    transformer = uncompiled(transformer)
    classes = {base.__name__ for base in type(transformer).__mro__}
    for family in FAMILIES:
        if family.transformer in classes:
            return family
    generic = generic_family(transformer)
    if generic is not None:
        return generic
    known = ", ".join(family.transformer for family in FAMILIES)
    raise ValueError(f"Probe: {type(transformer).__name__} is not a supported transformer; supported: {known}")


def uncompiled(module: Any) -> Any:
    """The module that `torch.compile` wrapped; any other as it is."""
    return getattr(module, "_orig_mod", module)


def denoiser_of(pipe: Any) -> Any:
    """The module of a pipeline that is probed: its transformer or U-Net, itself where it is compiled.

    Anything but a pipeline is returned as it is, or as the module that was compiled.
    """
    found = getattr(pipe, "transformer", None)
    found = getattr(pipe, "unet", None) if found is None else found
    return uncompiled(pipe if found is None else found)


def image_input_of(pipe: Any) -> ImageInput:
    """How the pipeline's family is given an image; `ValueError` if that is not known, as of pipelines that read images
    among the words."""
    family = family_of(denoiser_of(pipe))
    if family.image_input is None:
        able = ", ".join(family.models for family in FAMILIES if family.image_input is not None)
        raise ValueError(f"image: images can be read by {able}; this is a model of {family.models}")
    if "image" in inspect.signature(type(pipe).encode_prompt).parameters:
        raise ValueError(
            f"image: {type(pipe).__name__} reads images among the words; load the model as one that is given text alone"
        )
    return family.image_input


__all__ = [
    "FAMILIES",
    "PLAIN",
    "UNET_SELF",
    "Family",
    "ImageInput",
    "Inputs",
    "TextPart",
    "UNetPlace",
    "call_default",
    "denoiser_of",
    "device_of",
    "family_of",
    "image_input_of",
    "named_inputs",
    "output_projection",
    "unet_places",
]
