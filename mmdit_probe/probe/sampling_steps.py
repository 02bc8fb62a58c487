"""Where in the sampling loop a call of the transformer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class SamplingTime:
    """When a call of the transformer happens.

    Attributes:
        step: position in the sampling loop, from 0 (the noisiest). A step may take several calls.
        timestep: the paper's t, counted from the clean end: the number of sampling steps less the step (8 of 28 is step
            20). None if it is unknown how many steps there are.
        sigmas: noise level of each batch row, in [0, 1]; None if the call has none.
        scheduler_timestep: the scheduler's own number, or 1000 sigma if it does not say; None without a noise level.
    """

    step: int
    timestep: int | None = None
    sigmas: np.ndarray | None = None
    scheduler_timestep: float | None = None


class StepCounter:
    """Counts sampling steps over the calls of a pipeline's transformer, from 0.

    Consecutive calls at the same noise level are one step: many pipelines predict for the negative prompt, or with
    layers left out, in a call of their own, and second-order schedulers return to a noise level. Without a pipeline
    there is no loop, and each call is a step.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.step = -1
        self._first = 0  # the generation's first step
        self._last: tuple[int, int, float] | None = None

    def next(self, sigmas: np.ndarray | None, generation: int = 0) -> SamplingTime:
        """The time of the next call, with noise levels ``sigmas`` (batch,).

        ``generation`` counts how often the pipeline has begun to encode prompts.
        """
        if sigmas is None:
            self.step, self._last = self.step + 1, None
            return SamplingTime(self.step)
        mark = (generation, self._position() or 0, float(sigmas[0]))
        if self._last is None or mark[0] != self._last[0]:
            self._first = self.step + 1
        if self.pipe is None or mark != self._last:
            self.step += 1
        self._last = mark
        return self._time(sigmas)

    def _time(self, sigmas: np.ndarray) -> SamplingTime:
        """The current step's time, with what the scheduler says if it is at this noise level."""
        number = 1000 * float(sigmas[0])
        levels, position = self._levels(), self._position()
        position = self.step - self._first if position is None else position
        if levels is None or position >= len(levels) or abs(levels[position] - number) > 1 + number / 100:  # bf16
            return SamplingTime(self.step, None, sigmas, number)
        return SamplingTime(self.step, len(levels) - position, sigmas, float(levels[position]))

    def _levels(self) -> np.ndarray | None:
        """The scheduler's numbers of the sampling loop's steps; None outside of a loop."""
        timesteps = self._timesteps()
        if timesteps is None or getattr(self.pipe.scheduler, "num_inference_steps", None) is None:
            return None
        if (getattr(self.pipe.scheduler, "step_index", None) or 0) >= len(timesteps):  # an earlier loop has ended
            return None
        return timesteps[np.flatnonzero(_starts(timesteps))]

    def _position(self) -> int | None:
        """How many noise levels the scheduler has passed; None if it does not count.

        In bf16 neighboring noise levels can look the same in the transformer's arguments.
        """
        timesteps = self._timesteps()
        if timesteps is None or not hasattr(self.pipe.scheduler, "step_index"):
            return None
        index = self.pipe.scheduler.step_index
        index = getattr(self.pipe.scheduler, "begin_index", None) if index is None else index  # None: not begun
        return int(_starts(timesteps)[1 : (index or 0) + 1].sum())

    def _timesteps(self) -> np.ndarray | None:
        timesteps = getattr(getattr(self.pipe, "scheduler", None), "timesteps", None)
        return None if timesteps is None else torch.as_tensor(timesteps).float().cpu().numpy()


def _starts(timesteps: np.ndarray) -> np.ndarray:
    """True at the first of equal neighbors."""
    return np.concatenate([[True], timesteps[1:] != timesteps[:-1]])
