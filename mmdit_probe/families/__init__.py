"""The families of transformers, and all that is read of a pipeline's parts: the only place that knows their names.

A new model is one `Family`: which modules are its attention layers, how its tokens lie, and what its timestep argument
means.
"""

from .family import PLAIN, Family, Inputs, TextPart, named_inputs
from .image_input import ImageInput, vae_dtype
from .pipeline import (
    FamilyPipeline,
    Pipeline,
    call_default,
    default_latent_side,
    denoiser_of,
    device_of,
    latent_pixels,
    uncompiled,
)
from .registry import FAMILIES, family_of, image_input_of, layers_of
from .unet import UNET_SELF, UNetPlace, output_projection, unet_places

__all__ = [
    "FAMILIES",
    "PLAIN",
    "UNET_SELF",
    "Family",
    "FamilyPipeline",
    "ImageInput",
    "Inputs",
    "Pipeline",
    "TextPart",
    "UNetPlace",
    "call_default",
    "default_latent_side",
    "denoiser_of",
    "device_of",
    "family_of",
    "image_input_of",
    "latent_pixels",
    "layers_of",
    "named_inputs",
    "output_projection",
    "uncompiled",
    "unet_places",
    "vae_dtype",
]
