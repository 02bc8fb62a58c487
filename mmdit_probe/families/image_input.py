"""Single-pass image input: encode pixels and prompts, and build the transformer's arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor

from .pipeline import FamilyPipeline, Pipeline, call_default, device_of
from .schedule import shifted_sigmas
from .strips import in_strips

Text = Mapping[str, Any]
Sigma = TypeVar("Sigma", float, Tensor)


def latents_of(pipe: FamilyPipeline, pixels: Tensor) -> Tensor:
    """(batch, channels, rows, cols): the posterior mean, shifted and scaled as the pipeline does."""
    config = pipe.vae.config
    shift = config.get("shift_factor") or 0.0
    return (encoded(pipe, pixels) - shift) * config.scaling_factor


def encoded(pipe: FamilyPipeline, pixels: Tensor) -> Tensor:
    """The mean of the autoencoder's posterior; large images take little more memory than it has activations on the CPU."""
    with in_strips(pipe.vae):
        return pipe.vae.encode(pixels).latent_dist.mean


def vae_dtype(pipe: Pipeline) -> torch.dtype:
    """The dtype of the autoencoder's weights."""
    dtype: torch.dtype = pipe.vae.dtype
    return dtype


def unpacked(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """The latents unchanged, as ``hidden_states``."""
    return {"hidden_states": noisy, **text}


def packed(noisy: Tensor) -> Tensor:
    """(batch, tokens, channels x 4): each token is 2 x 2 latent pixels, channels first."""
    return rearrange(noisy, "batch channel (row two) (col pair) -> batch (row col) (channel two pair)", two=2, pair=2)


def position_ids(noisy: Tensor) -> Tensor:
    """(tokens, 3): 0, row and column of each token of 2 x 2 latent pixels."""
    rows, cols = (size // 2 for size in noisy.shape[-2:])
    return torch.nn.functional.pad(places(rows, cols), (1, 0)).to(noisy)


def places(rows: int, cols: int) -> Tensor:
    """(rows x cols, 2): row and column of each token, row by row."""
    return torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), -1).flatten(0, 1)


def guidance_of(pipe: FamilyPipeline, batch: int) -> dict[str, Tensor]:
    """The guidance input (batch,) of a guidance-distilled model, at the pipeline's default; nothing for other models."""
    if not pipe.transformer.config.get("guidance_embeds", False):
        return {}
    scale = call_default(pipe, "guidance_scale")
    if scale is None:
        raise ValueError(f"{type(pipe).__name__}: the model takes a guidance scale, but its pipeline has no default")
    return {"guidance": torch.full((batch,), float(scale), device=device_of(pipe))}


def thousand(sigma: Sigma) -> Sigma:
    """From 1000 (noise) to 0 (image)."""
    return 1000 * sigma


def same(sigma: Sigma) -> Sigma:
    """From 1 (noise) to 0 (image)."""
    return sigma


def reverse(sigma: Sigma) -> Sigma:
    """From 0 (noise) to 1 (image)."""
    return 1 - sigma


@dataclass(frozen=True)
class ImageInput:
    """How an image is encoded, mixed with noise and passed through the transformer once, without guidance.

    Attributes:
        text: the transformer's arguments that come from prompts, given ``max_sequence_length``.
        arguments: the transformer's arguments without the timestep, from noisy latents (batch, channels, rows, cols) and
            the text's.
        latents: clean latents (batch, channels, rows, cols) of pixels (batch, 3, height, width) in [-1, 1].
        sigmas: the noise levels of a sampling run, from first to last, then 0, for a number of steps and of image tokens.
        time: the timestep argument at a noise level, one number or a tensor.
        modular_text: the transformer's arguments that come from prompts, from what the text step of a modular pipeline leaves, by
            name; None if modular pipelines can't read images.
    """

    text: Callable[[Any, Sequence[str], int], dict[str, Any]]
    arguments: Callable[[Any, Tensor, Text], dict[str, Any]] = unpacked
    latents: Callable[[Any, Tensor], Tensor] = latents_of
    sigmas: Callable[[Any, int, int], list[float]] = shifted_sigmas
    time: Callable[[Any], Any] = thousand
    modular_text: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
