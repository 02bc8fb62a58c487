"""One forward pass on a given image: encode it, mix it with noise, and run the transformer once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..attention.text_tokens import TextTokens
from ..families import denoiser_of, device_of, family_of, image_input_of
from .image_size import native_size, token_pixels
from .prompts import describe

LONGEST = 1024
"""Text positions that any of the pipelines takes at most."""


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """Encoded prompts: what the transformer is given, and what its text positions hold."""

    inputs: dict[str, Any]
    text: TextTokens


def noise_level(pipe: Any, timestep: int, steps: int = 28, size: tuple[int, int] | None = None) -> float:
    """Sigma in [0, 1] at ``timestep`` of ``steps``, counted from the clean end as the paper does.

    Timestep 8 of 28 is ``timesteps[-8]``, the 21st of 28 steps: sigma 0.515 with SD3's shift 3, 0.558 with that of
    Flux.1 at 1024 px. ``size`` (height, width) in px is the image's, where the schedule depends on it; the model's own
    if None.
    """
    if not 1 <= timestep <= steps:
        raise ValueError(f"noise_level: timestep must be in 1 to {steps} (1 is the cleanest), got {timestep}")
    height, width = size or (native_size(pipe),) * 2
    tokens = (height // token_pixels(pipe)) * (width // token_pixels(pipe))
    return image_input_of(pipe).sigmas(pipe, steps, tokens)[-timestep - 1]


def to_pixels(
    images: Sequence[np.ndarray] | np.ndarray, device: torch.device | str
) -> Float[Tensor, "batch 3 height width"]:
    """uint8 RGB images of one size, (height, width, 3) each, as a tensor in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(list(images))).to(device)
    return rearrange(stacked, "batch height width rgb -> batch rgb height width").float() / 127.5 - 1


@torch.no_grad()
def encode_images(pipe: Any, images: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """Clean latents: the posterior mean, shifted and scaled as the pipeline does."""
    pixels = to_pixels(images, device_of(pipe)).to(pipe.vae.dtype)
    return image_input_of(pipe).latents(pipe, pixels)


def add_noise(latents: Tensor, sigma: float, seed: int) -> Tensor:
    """Rectified flow: ``(1 - sigma) x + sigma eps``, the same eps on every device for one seed."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    return (1 - sigma) * latents + sigma * noise


@torch.no_grad()
def encode_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int = 77) -> PromptEmbeddings:
    """Prompts through the pipeline's own text encoders, without classifier-free guidance; up to 1024 positions."""
    if not 0 <= max_sequence_length <= LONGEST:
        raise ValueError(f"max_sequence_length must be 0 to {LONGEST}, got {max_sequence_length}")
    inputs = image_input_of(pipe).text(pipe, list(prompts), max_sequence_length)
    parts = family_of(denoiser_of(pipe)).text_parts(pipe, max_sequence_length)
    return PromptEmbeddings(inputs, describe(parts, list(prompts)))


@torch.no_grad()
def forward_once(pipe: Any, noisy: Tensor, sigma: float, features: PromptEmbeddings) -> Any:
    """The transformer's prediction for noisy latents at noise level ``sigma``, in the form that the model gives it."""
    transformer, given = pipe.transformer, image_input_of(pipe)
    arguments = given.arguments(pipe, noisy.to(transformer.dtype), features.inputs)
    arguments[family_of(transformer).timestep_argument] = torch.full(
        (len(noisy),), given.time(sigma), device=noisy.device
    )
    return transformer(**arguments).sample
