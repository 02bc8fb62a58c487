"""All families, and the one that a transformer or a pipeline belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import diffusers
from torch import nn

from .aura_flow import AURA_FLOW
from .cosmos3 import COSMOS_3
from .cross_attention import CROSS_ATTENTION
from .cross_video import CROSS_VIDEO
from .family import Family, TextPart
from .flux import FLUX
from .flux3 import FLUX_3
from .flux_derivatives import FLUX_DERIVATIVES
from .generic import generic_family
from .gists import BRIA_FIBO_2
from .hunyuan_image import HUNYUAN_IMAGE
from .image_input import ImageInput
from .latents import LATENTS
from .modular import WithStep, encoded_prompts, is_modular, text_step
from .one_sequence import ONE_SEQUENCE
from .other_unets import OTHER_UNETS
from .out_of_scope import OUT_OF_SCOPE
from .pipeline import Pipeline, call_arguments, denoiser_of, unwrapped
from .qwen import QWEN
from .single_stream import SINGLE_STREAM
from .stable_diffusion import STABLE_DIFFUSION_3
from .unet import UNET
from .video import VIDEO
from .wan import WAN

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION_3,
    *FLUX,
    *FLUX_DERIVATIVES,
    FLUX_3,
    BRIA_FIBO_2,
    *QWEN,
    AURA_FLOW,
    HUNYUAN_IMAGE,
    *ONE_SEQUENCE,
    COSMOS_3,
    *VIDEO,
    *SINGLE_STREAM,
    *LATENTS,
    *OTHER_UNETS,
    UNET,
    *CROSS_ATTENTION,
    *WAN,
    *CROSS_VIDEO,
)


def family_of(transformer: nn.Module) -> Family:
    """The family of a transformer or U-Net.

    A class that no family describes gets a generic one from its blocks, which a probe checks by what the model does.
    `ValueError` if it is known to be out of scope, or has no attention blocks.
    """
    transformer = unwrapped(transformer)
    classes = {base.__name__ for base in type(transformer).__mro__}
    for family in FAMILIES:
        if family.transformer in classes:
            return family
    for name in classes & OUT_OF_SCOPE.keys():
        raise ValueError(f"Probe: {name} is out of scope: {OUT_OF_SCOPE[name]}")
    generic = generic_family(transformer)
    if generic is not None:
        return generic
    known = ", ".join(family.transformer for family in FAMILIES)
    raise ValueError(f"Probe: {type(transformer).__name__} is not a supported transformer; supported: {known}")


def installed(family: Family) -> bool:
    """Whether the installed diffusers has the family's transformer; older releases lack the later ones."""
    return family.transformer in dir(diffusers)


def layers_of(pipe: Pipeline | nn.Module, family: Family | None = None) -> list[nn.Module]:
    """The attention modules that a `Probe` numbers from 0, of a pipeline or of its transformer or U-Net.

    ``family`` as in `Probe`: None for that of the module's class.
    """
    transformer = denoiser_of(pipe)
    return (family or family_of(transformer)).layers(transformer)


def heads_of(pipe: Pipeline, layer: int) -> int:
    """Number of attention heads of a layer; `ValueError` if the attention module does not say."""
    heads = getattr(layers_of(pipe)[layer], "heads", None)
    if not isinstance(heads, int):
        raise ValueError(f"heads: {type(denoiser_of(pipe)).__name__} does not say how many heads its layers have")
    return heads


def text_parts_of(pipe: Pipeline, max_sequence_length: int = 0) -> list[TextPart]:
    """The text positions that the pipeline makes; an empty list if they are not described.

    ``max_sequence_length`` is the number of positions of the encoders whose length is free; 0 is the pipeline's own.
    """
    family = family_of(denoiser_of(pipe))
    if not is_modular(pipe):
        return family.text_parts(pipe, max_sequence_length)
    step = text_step(pipe)
    return [] if step is None else family.text_parts(WithStep(pipe, step), max_sequence_length)


def token_latents(pipe: Pipeline) -> int:
    """Width of an image token in latent pixels: 2 for SD3."""
    return int(getattr(pipe, "patch_size", family_of(denoiser_of(pipe)).patch))


def image_input_of(pipe: Pipeline) -> ImageInput:
    """How the pipeline's family reads a given image.

    Raises:
        ValueError: this is not supported for the family, or the pipeline takes images as part of its prompt.
    """
    family = family_of(denoiser_of(pipe))
    if family.image_input is None:
        able = ", ".join(family.models for family in FAMILIES if family.image_input is not None)
        raise ValueError(f"image: images can be read by {able}; this is a model of {family.models}")
    if is_modular(pipe):
        return _modular_image_input(pipe, family, family.image_input)
    if "image" in call_arguments(pipe, "encode_prompt"):
        raise ValueError(
            f"image: {type(pipe).__name__} takes images as part of the prompt; load the model's text-to-image pipeline"
        )
    return family.image_input


def _modular_image_input(pipe: Pipeline, family: Family, own: ImageInput) -> ImageInput:
    """How a modular pipeline reads a given image: as its family does, with prompts through the pipeline's own text step."""
    from_state = own.modular_text
    if from_state is None:
        inputs = ((other, other.image_input) for other in FAMILIES)
        able = ", ".join(
            other.models for other, given in inputs if given is not None and given.modular_text is not None
        )
        raise ValueError(
            f"image: of modular pipelines, images can be read by {able}; load the {family.models} as an ordinary pipeline"
        )
    if text_step(pipe) is None:
        raise ValueError(
            f"image: {type(pipe).__name__} takes images as part of the prompt; load the model's text-to-image pipeline"
        )

    def text(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
        return from_state(encoded_prompts(pipe, prompts, max_sequence_length, family.batches))

    return replace(own, text=text)
