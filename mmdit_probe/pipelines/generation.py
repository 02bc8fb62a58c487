"""Generating through the ordinary diffusers pipeline call, with a model's defaults filled in."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..configs import GenerationConfig, SamplingConfig
from ..families import denoiser_of, family_of
from .defaults import model_defaults


def generation_arguments(pipe: Any, config: SamplingConfig) -> dict[str, Any]:
    """The pipeline call's arguments, as far as it has them; the generator is the CPU's, so seeds mean the same everywhere.

    Pipelines that would write the prompt anew are told not to.
    """
    defaults = model_defaults(pipe)
    wanted: dict[str, Any] = {
        "num_inference_steps": config.steps,
        "guidance_scale": defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        "max_sequence_length": (
            defaults.max_sequence_length if config.max_sequence_length is None else config.max_sequence_length
        ),
        "height": config.height,
        "width": config.width,
    }
    if isinstance(config, GenerationConfig):
        wanted["generator"] = torch.Generator().manual_seed(config.seed)
    wanted |= family_of(denoiser_of(pipe)).verbatim_prompt_args
    known = inspect.signature(type(pipe).__call__).parameters
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def steps_at(timesteps: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """Positions in the sampling loop of timesteps counted from the clean end: 8 of 28 is position 20."""
    for timestep in timesteps:
        if not 1 <= timestep <= steps:
            raise ValueError(f"timesteps: must be in 1 to {steps} (the number of steps), got {timestep}")
    return tuple(steps - timestep for timestep in timesteps)
