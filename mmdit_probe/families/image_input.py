"""How a family is given an image: pixels to latents, a prompt and noisy latents to the transformer's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

Text = Mapping[str, Any]


def device_of(pipe: Any) -> torch.device:
    """Where the pipeline's models are while they work: of offloaded ones the device of their hooks, not of their weights."""
    return pipe._execution_device


def latents_of(pipe: Any, pixels: Tensor) -> Tensor:
    """(batch, channels, rows, cols): the posterior mean, shifted and scaled as the pipeline does."""
    config = pipe.vae.config
    shift = config.get("shift_factor") or 0.0
    return (pipe.vae.encode(pixels).latent_dist.mean - shift) * config.scaling_factor


def shifted_sigmas(pipe: Any, steps: int, tokens: int) -> list[float]:
    """The scheduler's own noise levels, moved by the number of image tokens if its configuration says so."""
    scheduler = _fresh(pipe)
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    scheduler.set_timesteps(steps, **({"mu": shift_of(scheduler.config, tokens)} if dynamic else {}))
    return scheduler.sigmas.tolist()


def even_sigmas(pipe: Any, steps: int, tokens: int) -> list[float]:
    """Noise levels 1, ..., 2 / steps, 1 / steps, moved by the number of image tokens."""
    return moved_sigmas(pipe, steps, shift_of(pipe.scheduler.config, tokens))


def moved_sigmas(pipe: Any, steps: int, mu: float) -> list[float]:
    """Noise levels 1, ..., 2 / steps, 1 / steps, moved by ``mu`` if the scheduler's configuration says so."""
    return given_sigmas(pipe, np.linspace(1.0, 1 / steps, steps), mu=mu)


def given_sigmas(pipe: Any, levels: np.ndarray, **options: float) -> list[float]:
    """What the scheduler makes of noise levels that its pipeline gives it."""
    scheduler = _fresh(pipe)
    scheduler.set_timesteps(sigmas=levels, **options)
    return scheduler.sigmas.tolist()


def shift_of(config: Mapping[str, Any], tokens: int) -> float:
    """``mu`` of the time shift: a line through the configuration's shifts at two numbers of image tokens."""
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (high - low) * (tokens - fewest) / (most - fewest)


def _fresh(pipe: Any) -> Any:
    """A copy of the scheduler: the pipeline's own keeps its state."""
    return type(pipe.scheduler).from_config(pipe.scheduler.config)


def unpacked(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    """Latents as they are."""
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


def guidance_of(pipe: Any, batch: int) -> dict[str, Tensor]:
    """The guidance that a distilled model is told, the pipeline's default; nothing for other models."""
    if not pipe.transformer.config.get("guidance_embeds", False):
        return {}
    scale = call_default(pipe, "guidance_scale")
    if scale is None:
        raise ValueError(f"{type(pipe).__name__}: the model is told a guidance, but its pipeline has no default for it")
    return {"guidance": torch.full((batch,), float(scale), device=device_of(pipe))}


def call_default(pipe: Any, name: str, method: str = "__call__") -> Any:
    """The default of an argument of the pipeline's call, or another method's, None if it has none such."""
    parameter = inspect.signature(getattr(type(pipe), method)).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def thousand(sigma: float) -> float:
    """From 1000 (noise) to 0 (image)."""
    return 1000 * sigma


def same(sigma: float) -> float:
    """From 1 (noise) to 0 (image)."""
    return sigma


def reverse(sigma: float) -> float:
    """From 0 (noise) to 1 (image)."""
    return 1 - sigma


@dataclass(frozen=True)
class ImageInput:
    """How an image is encoded, mixed with noise and passed through the transformer once, without guidance.

    Attributes:
        text: what the transformer is told of prompts, by argument, given ``max_sequence_length``.
        arguments: the transformer's arguments but the timestep, from noisy latents (batch, channels, rows, cols) and text.
        latents: clean latents (batch, channels, rows, cols) of pixels (batch, 3, height, width) in [-1, 1].
        sigmas: a schedule's noise levels from first to last, then 0, for a number of image tokens.
        time: the timestep argument at a noise level.
    """

    text: Callable[[Any, Sequence[str], int], dict[str, Any]]
    arguments: Callable[[Any, Tensor, Text], dict[str, Any]] = unpacked
    latents: Callable[[Any, Tensor], Tensor] = latents_of
    sigmas: Callable[[Any, int, int], list[float]] = shifted_sigmas
    time: Callable[[float], float] = thousand
