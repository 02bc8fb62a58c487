"""A single forward pass on given images: encode them, mix them with noise, and run the transformer once."""

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
from ..families import Pipeline, denoiser_of, device_of, family_of, image_input_of, text_parts_of, vae_dtype
from .image_size import native_size, token_pixels
from .prompts import describe

LONGEST = 8192
"""The most text positions that any of the pipelines takes."""


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """Encoded prompts.

    Attributes:
        inputs: the transformer's text arguments by name, the embeddings (batch, tokens, width) among them.
        text: what the text positions hold.
    """

    inputs: dict[str, Any]
    text: TextTokens


def noise_level(pipe: Pipeline, timestep: int, steps: int, size: tuple[int, int] | None = None) -> float:
    """Sigma in [0, 1] at ``timestep`` of ``steps``, counted from the clean end as in the paper.

    Timestep 8 of 28 is ``timesteps[-8]``, the 21st of 28 steps: sigma 0.515 with SD3's shift 3, 0.558 with that of
    Flux.1 at 1024 px. ``size`` is the image's (height, width) in px, on which some schedules depend; the model's own if
    None.
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
def encode_images(
    pipe: Pipeline, images: Sequence[np.ndarray] | np.ndarray
) -> Float[Tensor, "batch channels rows cols"]:
    """Clean latents of uint8 RGB images of one size, (height, width, 3) each.

    The mean of the autoencoder's posterior, shifted and scaled as the pipeline does; on the device where it works, in
    the autoencoder's dtype.
    """
    pixels = to_pixels(images, device_of(pipe)).to(vae_dtype(pipe))
    return image_input_of(pipe).latents(pipe, pixels)


def add_noise(latents: Tensor, sigma: float, seed: int) -> Tensor:
    """Rectified flow: ``(1 - sigma) x + sigma eps`` with normal ``eps``, the same on every device for one seed."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    return (1 - sigma) * latents + sigma * noise


@torch.no_grad()
def encode_prompts(pipe: Pipeline, prompts: Sequence[str], max_sequence_length: int = 77) -> PromptEmbeddings:
    """Prompts through the pipeline's own text encoders, without classifier-free guidance.

    ``max_sequence_length``, 0 to 8192, is the number of positions of the encoders whose length is free, such as T5; 0
    leaves it to the pipeline.
    """
    if not 0 <= max_sequence_length <= LONGEST:
        raise ValueError(f"max_sequence_length must be 0 to {LONGEST}, got {max_sequence_length}")
    inputs = image_input_of(pipe).text(pipe, list(prompts), max_sequence_length)
    return PromptEmbeddings(inputs, describe(text_parts_of(pipe, max_sequence_length), list(prompts)))


def transformer_arguments(
    pipe: Pipeline, noisy: Tensor, sigma: float | Float[Tensor, " batch"], prompts: PromptEmbeddings
) -> dict[str, Any]:
    """The transformer's arguments for noisy latents (batch, channels, rows, cols) at one noise level, or one for each."""
    images = image_input_of(pipe)
    time = images.time(sigma)
    if not isinstance(time, Tensor):
        time = torch.full((len(noisy),), time, device=noisy.device)
    arguments = images.arguments(pipe, noisy, prompts.inputs)
    return {**arguments, family_of(denoiser_of(pipe)).timestep_argument: time}


@torch.no_grad()
def forward_once(pipe: Pipeline, noisy: Tensor, sigma: float, prompts: PromptEmbeddings) -> Any:
    """The transformer's prediction for noisy latents (batch, channels, rows, cols) at noise level ``sigma``.

    In the transformer's own form: the latents' shape for SD3, (batch, image tokens, channels) for models of packed
    latents, a list of samples for Z-Image.

    >>> from mmdit_probe import Probe, RegionMass, load_pipeline
    >>> from mmdit_probe.datasets.scenes import scene
    >>> pipe, image = load_pipeline("tiny-sd3"), scene("val", 0).image
    >>> prompts = encode_prompts(pipe, ["a red circle on grass"], 0)
    >>> sigma = noise_level(pipe, 8, 28)
    >>> noisy = add_noise(encode_images(pipe, [image]), sigma, seed=0)
    >>> with Probe(pipe, [RegionMass()]) as probe:
    ...     velocity = forward_once(pipe, noisy, sigma, prompts)
    >>> velocity.shape == noisy.shape
    True
    """
    transformer = denoiser_of(pipe)
    return transformer(**transformer_arguments(pipe, noisy.to(transformer.dtype), sigma, prompts)).sample


def forward_noisy(
    pipe: Pipeline,
    latents: Tensor,
    sigma: float,
    prompts: PromptEmbeddings,
    seed: int,
    *,
    same_noise: bool = False,
) -> Any:
    """`forward_once` on clean latents (batch, channels, rows, cols) that `add_noise` mixes with the noise of ``seed``.

    ``same_noise`` mixes every image with the noise that it has alone, so that the result does not depend on its
    neighbors in the batch.
    """
    parts = latents.split(1) if same_noise else [latents]
    return forward_once(pipe, torch.cat([add_noise(part, sigma, seed) for part in parts]), sigma, prompts)
