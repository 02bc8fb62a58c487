"""Where in the sampling loop a call of the transformer is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..families import Pipeline, levels_passed, loop_levels


@dataclass(frozen=True, eq=False)
class SamplingTime:
    """When a call of the transformer happens.

    Attributes:
        step: position in the sampling loop, from 0 (the noisiest). A step may take several calls.
        timestep: the paper's t, counted from the clean end: the number of sampling steps less the step (8 of 28 is step
            20). None if it is unknown how many steps there are.
        sigmas: noise level of each batch row, in [0, 1], NaN if it is not known what the model's timestep means; None if the
            call has none.
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

    def __init__(self, pipe: Pipeline | None) -> None:
        self.pipe = pipe
        self.step = -1
        self._first = 0  # the generation's first step
        self._last: tuple[int, int, float] | None = None

    def next(self, sigmas: np.ndarray | None, generation: int = 0, told: float = math.nan) -> SamplingTime:
        """The time of the next call, with noise levels ``sigmas`` (batch,).

        ``generation`` counts how often the pipeline has begun to encode prompts; ``told`` is the timestep as the transformer is
        told it, which stands for noise levels that are NaN.
        """
        if sigmas is None:
            self.step, self._last = self.step + 1, None
            return SamplingTime(self.step)
        known = not np.isnan(sigmas[0])
        mark = (generation, levels_passed(self.pipe) or 0, float(sigmas[0]) if known else told)
        if self._last is None or mark[0] != self._last[0]:
            self._first = self.step + 1
        if self.pipe is None or mark != self._last:
            self.step += 1
        self._last = mark
        return self._time(sigmas, [1000 * float(sigmas[0])] if known else [told, 1000 * told])

    def _time(self, sigmas: np.ndarray, numbers: Sequence[float]) -> SamplingTime:
        """The current step's time, with what the scheduler says if it is at one of these levels."""
        levels, position = loop_levels(self.pipe), levels_passed(self.pipe)
        position = self.step - self._first if position is None else position
        here = None if levels is None or position >= len(levels) else float(levels[position])
        if (
            levels is None or here is None or not any(abs(here - number) <= 1 + number / 100 for number in numbers)
        ):  # bf16
            return SamplingTime(self.step, None, sigmas, 1000 * float(sigmas[0]))
        return SamplingTime(self.step, len(levels) - position, sigmas, here)
