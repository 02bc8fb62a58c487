"""Noise schedules: the noise levels of a sampling run, the training schedule, and how far a running scheduler has come."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
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


def loop_levels(pipe: Pipeline | None) -> np.ndarray | None:
    """The running scheduler's own numbers of the sampling loop's steps, (steps,); None outside a loop.

    A level that a second-order scheduler visits twice counts once.
    """
    timesteps = _timesteps(pipe)
    if pipe is None or timesteps is None or getattr(pipe.scheduler, "num_inference_steps", None) is None:
        return None
    if (getattr(pipe.scheduler, "step_index", None) or 0) >= len(timesteps):  # an earlier loop has ended
        return None
    return timesteps[np.flatnonzero(_starts(timesteps))]


def levels_passed(pipe: Pipeline | None) -> int | None:
    """How many noise levels the running scheduler has passed; None if it does not count.

    Tells neighboring timesteps apart that are equal in bf16.
    """
    timesteps = _timesteps(pipe)
    if pipe is None or timesteps is None or not hasattr(pipe.scheduler, "step_index"):
        return None
    index = pipe.scheduler.step_index
    index = getattr(pipe.scheduler, "begin_index", None) if index is None else index  # None: not begun
    return int(_starts(timesteps)[1 : (index or 0) + 1].sum())


def _timesteps(pipe: Pipeline | None) -> np.ndarray | None:
    timesteps = getattr(getattr(pipe, "scheduler", None), "timesteps", None)
    return None if timesteps is None else torch.as_tensor(timesteps).cpu().to(torch.float32).numpy()


def _starts(timesteps: np.ndarray) -> np.ndarray:
    """True at the first of equal neighbors."""
    return np.concatenate([[True], timesteps[1:] != timesteps[:-1]])


Stepped = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From what a scheduler's step is given, the model's prediction and the latents, to what it is to be given in their place."""


@contextmanager
def changed_steps(pipe: Pipeline, change: Stepped) -> Iterator[None]:
    """Inside, each step of the pipeline's scheduler starts from what ``change`` makes of its prediction and its latents.

    `ValueError` if the scheduler's step takes no such two.
    """
    scheduler: Any = pipe.scheduler
    plain, own = scheduler.step, vars(scheduler).get("step")
    signature = inspect.signature(plain)
    missing = {"model_output", "sample"} - set(signature.parameters)
    if missing:
        raise ValueError(
            f"{type(scheduler).__name__}'s step takes no {' and no '.join(sorted(missing))}, so that its latents can't be moved; "
            f"take one of diffusers' flow-matching or diffusion schedulers"
        )

    @functools.wraps(plain)  # pipelines look at its parameters
    def step(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        named = given.arguments
        named["model_output"], named["sample"] = change(named["model_output"], named["sample"])
        return plain(*given.args, **given.kwargs)

    scheduler.step = step
    try:
        yield
    finally:
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own


_TOWARD_NOISE = (None, "epsilon", "v_prediction", "flow_prediction")


def predicts_noise(pipe: Pipeline) -> bool:
    """Whether what the scheduler is given points from image to noise, so that a step goes against it.

    So do a velocity of flow matching, a noise and a v-prediction; the image itself does not.
    """
    config = pipe.scheduler.config
    return config.get("prediction_type") in _TOWARD_NOISE and not config.get("invert_sigmas", False)
