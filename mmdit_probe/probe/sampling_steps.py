"""Where in the sampling loop a call of the transformer is."""

from __future__ import annotations

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

    def __init__(self, pipe: Pipeline | None) -> None:
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
        mark = (generation, levels_passed(self.pipe) or 0, float(sigmas[0]))
        if self._last is None or mark[0] != self._last[0]:
            self._first = self.step + 1
        if self.pipe is None or mark != self._last:
            self.step += 1
        self._last = mark
        return self._time(sigmas)

    def _time(self, sigmas: np.ndarray) -> SamplingTime:
        """The current step's time, with what the scheduler says if it is at this noise level."""
        number = 1000 * float(sigmas[0])
        levels, position = loop_levels(self.pipe), levels_passed(self.pipe)
        position = self.step - self._first if position is None else position
        if levels is None or position >= len(levels) or abs(levels[position] - number) > 1 + number / 100:  # bf16
            return SamplingTime(self.step, None, sigmas, number)
        return SamplingTime(self.step, len(levels) - position, sigmas, float(levels[position]))
