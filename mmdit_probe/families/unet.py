"""Stable Diffusion's U-Nets: cross-attention or self-attention, and the single pass on a given image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..attention.layout import TokenLayout
from .family import Family, Inputs, TextPart
from .pipeline import FamilyPipeline, Pipeline, denoiser_of, device_of


@dataclass(frozen=True)
class UNetPlace:
    """Where a transformer block stands in a U-Net.

    Attributes:
        stage: "down", "mid" or "up".
        number: the U-Net block in its stage, from 0.
        attention: the transformer in that block, from 0.
        block: the transformer block in it, from 0.
    """

    stage: str
    number: int
    attention: int
    block: int


def _unet_blocks(unet: Any) -> list[tuple[UNetPlace, Any]]:
    stages = {"down": unet.down_blocks, "mid": [unet.mid_block], "up": unet.up_blocks}
    return [
        (UNetPlace(stage, number, attention, place), block)
        for stage, parts in stages.items()
        for number, part in enumerate(parts)
        for attention, transformer in enumerate(getattr(part, "attentions", None) or ())
        for place, block in enumerate(getattr(transformer, "transformer_blocks", ()))
    ]


def _unet_layers(unet: Any) -> list[nn.Module]:
    return [block.attn2 for _, block in _unet_blocks(unet) if block.attn2 is not None]


def _unet_self_layers(unet: Any) -> list[nn.Module]:
    return [block.attn1 for _, block in _unet_blocks(unet) if block.attn1 is not None]


def unet_places(pipe: Pipeline) -> list[UNetPlace]:
    """The place of each layer of `UNET_SELF`, in order."""
    return [place for place, _ in _unet_blocks(denoiser_of(pipe))]


def _unet_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    rows, cols = inputs["sample"].shape[-2:]
    return TokenLayout((rows, cols), inputs["encoder_hidden_states"].shape[1], scope="cross")


def unet_level(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """U-Net layers see the latents halved several times, rounded up each time."""
    rows, cols = layout.grid
    while rows * cols > max(queries, 1):
        rows, cols = (rows + 1) // 2, (cols + 1) // 2
    level = replace(layout, grid=(rows, cols))
    return level if (queries, keys) == (level.queries, level.keys) else None


def _unet_self_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    return replace(_unet_layout(unet, inputs), text=0, scope="joint")


def _clip(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """SDXL has two encoders, side by side in the same positions; its refiner has the second alone, of the prompt."""
    first: Any = pipe.tokenizer
    second: Any = getattr(pipe, "tokenizer_2", None)
    if first is None:
        return [TextPart("clip", second, second.model_max_length)]
    length = first.model_max_length
    sharing = None if second is None else TextPart("clip", second, length, arguments=("prompt_2", "prompt"))
    return [TextPart("clip", first, length, sharing=sharing)]


UNET = Family(
    name="unet",
    transformer="UNet2DConditionModel",
    models="Stable Diffusion 1.5, 2, XL, SSD-1B",
    layers=_unet_layers,
    layout=_unet_layout,
    text_parts=_clip,
    image_argument="sample",
    call_layout=unet_level,
)
UNET_SELF = replace(UNET, name="unet-self", layers=_unet_self_layers, layout=_unet_self_layout)
"""The same models read through their self-attention: the I2I region alone. For `Probe(family=)`."""


def is_unet_pipeline(pipe: Pipeline) -> bool:
    """Whether the pipeline has a U-Net."""
    return getattr(pipe, "unet", None) is not None


def unet_latents(pipe: Pipeline, pixels: Tensor, noise: torch.Generator | None = None) -> Tensor:
    """Clean latents (batch, channels, rows, cols) of pixels (batch, 3, height, width) in [-1, 1].

    The mean of the autoencoder's posterior; with a generator ``noise`` a sample of it.
    """
    posterior = pipe.vae.encode(pixels.to(pipe.vae.dtype)).latent_dist
    clean: Tensor = posterior.mean
    if noise is not None:
        clean = clean + posterior.std * torch.randn(clean.shape, generator=noise).to(clean)
    return clean * pipe.vae.config.scaling_factor


def unet_prompt(pipe: Pipeline, prompt: str, side: int) -> tuple[Tensor, dict[str, Any]]:
    """Text embeddings (1, tokens, width) of a prompt, and the U-Net's further arguments for an image of ``side`` px."""
    device, own = device_of(pipe), cast(FamilyPipeline, pipe)
    if not hasattr(pipe, "text_encoder_2"):
        return own.encode_prompt(prompt, device, 1, False)[0], {}
    found = own.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
    size = [side, side, 0, 0, side, side]  # original size, crop, target size
    times = torch.tensor([size], dtype=found[2].dtype, device=found[2].device)
    return found[0], {"added_cond_kwargs": {"text_embeds": found[2], "time_ids": times}}


def run_unet(pipe: Pipeline, latents: Tensor, timestep: int, embeddings: Tensor, further: dict[str, Any]) -> Tensor:
    """The U-Net's prediction for latents (batch, channels, rows, cols) at a timestep of its training schedule."""
    unet: Any = denoiser_of(pipe)
    return unet(latents.to(unet.dtype), timestep, encoder_hidden_states=embeddings, **further).sample
