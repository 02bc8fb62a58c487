"""Noise schedules: the noise levels of a sampling run, the training schedule, and how far a running scheduler has come."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .pipeline import FamilyPipeline, Pipeline, from_module


def shifted_sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """The scheduler's own noise levels, shifted for the number of image tokens if its configuration asks for it."""
    scheduler = _fresh(pipe)
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    scheduler.set_timesteps(steps, **({"mu": shift_of(pipe, tokens)} if dynamic else {}))
    return scheduler.sigmas.tolist()


def even_sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """Noise levels 1, ..., 2 / steps, 1 / steps, shifted for the number of image tokens."""
    return moved_sigmas(pipe, steps, shift_of(pipe, tokens))


def moved_sigmas(pipe: FamilyPipeline, steps: int, mu: float) -> list[float]:
    """Noise levels 1, ..., 2 / steps, 1 / steps, shifted by ``mu`` if the scheduler's configuration asks for it."""
    return given_sigmas(pipe, np.linspace(1.0, 1 / steps, steps), mu=mu)


def given_sigmas(pipe: FamilyPipeline, levels: np.ndarray, **options: float) -> list[float]:
    """What the scheduler makes of the noise levels that the pipeline passes to it, then 0."""
    scheduler = _fresh(pipe)
    scheduler.set_timesteps(sigmas=levels, **options)
    return scheduler.sigmas.tolist()


def shift_of(pipe: FamilyPipeline, tokens: int) -> float:
    """``mu`` of the time shift for a number of image tokens, by the pipeline's own `calculate_shift`."""
    config = pipe.scheduler.config
    return from_module(pipe, "calculate_shift")(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )


def _fresh(pipe: FamilyPipeline) -> Any:
    """A copy of the scheduler, so that the pipeline's own keeps its state."""
    return type(pipe.scheduler).from_config(pipe.scheduler.config)


def constant_shift(pipe: Pipeline) -> float:
    """The time shift of a flow-matching scheduler that does not depend on the image's size: 3 for SD3."""
    return float(pipe.scheduler.config.shift)


def training_steps(pipe: Pipeline) -> int:
    """The number of timesteps of a discrete (DDPM) training schedule: 1000 for Stable Diffusion."""
    return len(pipe.scheduler.alphas_cumprod)


def signal_share(pipe: Pipeline, timestep: int) -> Tensor:
    """``alpha_bar`` in [0, 1], a scalar: the image's share of the variance at a timestep of the discrete training schedule."""
    return pipe.scheduler.alphas_cumprod[timestep]


def levels_passed(pipe: Pipeline | None) -> int:
    """How many noise levels the running scheduler has left behind; 0 before it begins, or if it does not count.

    A level that a second-order scheduler visits twice counts once. Tells neighboring timesteps apart that are equal in bf16.
    """
    scheduler = getattr(pipe, "scheduler", None)
    timesteps, index = getattr(scheduler, "timesteps", None), getattr(scheduler, "step_index", None)
    if timesteps is None or index is None:
        return 0
    return int((timesteps[1 : index + 1] != timesteps[: len(timesteps[1 : index + 1])]).sum())
