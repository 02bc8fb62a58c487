"""The families of transformers, and all that is read of a pipeline's parts: the only place that knows their names.

A new model is one `Family`: which modules are its attention layers, how its tokens lie, and what its timestep argument
means.
"""

from .backends import eager_and_native
from .blocks import (
    CONCEPT_FAMILIES,
    IMAGE,
    TEXT,
    block_inputs,
    block_of,
    embedded_text,
    output_weight,
    run_text_stream,
)
from .family import PLAIN, Family, Inputs, TextPart, named_inputs
from .hooks import Again, answering_hooks, caching_hooks, replayed_blocks
from .image_input import ImageInput, vae_dtype
from .out_of_scope import OUT_OF_SCOPE
from .pipeline import (
    DENOISERS,
    FamilyPipeline,
    Pipeline,
    call_default,
    default_latent_side,
    denoiser_of,
    device_of,
    holds,
    latent_pixels,
    switch_lora,
    unwrapped,
)
from .projections import image_projections, output_projection
from .registry import FAMILIES, family_of, heads_of, image_input_of, layers_of, text_parts_of, token_latents
from .schedule import (
    changed_steps,
    constant_shift,
    levels_passed,
    loop_levels,
    predicts_noise,
    signal_share,
    training_steps,
)
from .stable_diffusion import T5_PARTS, stable_diffusion_3_pipeline, without_t5
from .unet import UNET_SELF, UNetPlace, is_unet_pipeline, run_unet, unet_latents, unet_places, unet_prompt

__all__ = [
    "CONCEPT_FAMILIES",
    "DENOISERS",
    "FAMILIES",
    "IMAGE",
    "OUT_OF_SCOPE",
    "PLAIN",
    "T5_PARTS",
    "TEXT",
    "UNET_SELF",
    "Again",
    "Family",
    "FamilyPipeline",
    "ImageInput",
    "Inputs",
    "Pipeline",
    "TextPart",
    "UNetPlace",
    "answering_hooks",
    "block_inputs",
    "block_of",
    "caching_hooks",
    "call_default",
    "changed_steps",
    "constant_shift",
    "default_latent_side",
    "denoiser_of",
    "device_of",
    "eager_and_native",
    "embedded_text",
    "family_of",
    "heads_of",
    "holds",
    "image_input_of",
    "image_projections",
    "is_unet_pipeline",
    "latent_pixels",
    "layers_of",
    "levels_passed",
    "loop_levels",
    "named_inputs",
    "output_projection",
    "output_weight",
    "predicts_noise",
    "replayed_blocks",
    "run_text_stream",
    "run_unet",
    "signal_share",
    "stable_diffusion_3_pipeline",
    "switch_lora",
    "text_parts_of",
    "token_latents",
    "training_steps",
    "unet_latents",
    "unet_places",
    "unet_prompt",
    "unwrapped",
    "vae_dtype",
    "without_t5",
]
