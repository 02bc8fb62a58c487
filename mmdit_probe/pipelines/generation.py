"""The arguments of a pipeline's call, with the model's defaults filled in, and which steps are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..configs import GenerationConfig, SamplingConfig
from ..families import Pipeline, call_arguments, denoiser_of, family_of, guider_of
from ..storage.images import read_rgb
from .defaults import model_defaults, text_length


def generation_arguments(pipe: Pipeline, config: SamplingConfig) -> dict[str, Any]:
    """The arguments of the pipeline's call, for `call_pipeline`; those that its class does not take are left out.

    The random generator is the CPU's, so that a seed means the same on every device. Prompt rewriting is disabled where a
    pipeline offers it.

    `ValueError` if there are reference images that can't be read, or that the pipeline does not take.
    """
    defaults = model_defaults(pipe)
    wanted: dict[str, Any] = {
        "num_inference_steps": config.steps,
        "guidance_scale": defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
        "max_sequence_length": text_length(pipe, config.max_sequence_length),
        "height": config.height or defaults.side,
        "width": config.width or defaults.side,
    }
    if isinstance(config, GenerationConfig):
        wanted["generator"] = torch.Generator().manual_seed(config.seed)
    wanted |= family_of(denoiser_of(pipe)).verbatim_prompt_args
    wanted |= _references(pipe, config.reference)
    known = {*call_arguments(pipe), *(() if guider_of(pipe) is None else ("guidance_scale",))}
    return {name: value for name, value in wanted.items() if name in known and value is not None}


_TAKES_REFERENCES = ("image", "images", "input_images")
"""Under which names editing pipelines take reference images."""
_CHANGES_IMAGES = ("strength", "mask_image")
"""What pipelines take that start from an image, or fill a part of it, instead of attending to it."""


def _references(pipe: Pipeline, files: Sequence[str]) -> dict[str, Any]:
    if not files:
        return {}
    known = call_arguments(pipe)
    name = next((name for name in _TAKES_REFERENCES if name in known), None)
    attends = family_of(denoiser_of(pipe)).references and not any(other in known for other in _CHANGES_IMAGES)
    if name is None or not attends:
        raise ValueError(
            f"reference: {type(pipe).__name__} takes no reference images; load an editing model, such as Flux Kontext or "
            "Qwen-Image-Edit, or leave --reference out"
        )
    pictures = [Image.fromarray(read_rgb(Path(file))) for file in files]
    return {name: pictures[0] if len(pictures) == 1 else pictures}


def check_no_references(config: SamplingConfig) -> None:
    """`ValueError` if there are reference images for an image that is given, not generated."""
    if config.reference:
        raise ValueError(
            "reference: reference images are for an image that is generated; with --image leave --reference out"
        )


def steps_at(timesteps: tuple[int, ...], steps: int) -> tuple[int, ...]:
    """Positions in the sampling loop, from 0, of timesteps counted from the clean end: 8 of 28 is step 20."""
    for timestep in timesteps:
        if not 1 <= timestep <= steps:
            raise ValueError(f"timesteps: must be in 1 to {steps} (the number of steps), got {timestep}")
    return tuple(steps - timestep for timestep in timesteps)
