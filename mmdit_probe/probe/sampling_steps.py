"""Which step of the sampling loop a call of the transformer belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..families import levels_passed


class StepCounter:
    """Counts sampling steps over the calls of a pipeline's transformer, from 0.

    Calls at the same noise level one after another are one step: many pipelines predict for the negative prompt, or with
    layers left out, in a call of their own, and second-order schedulers come back to a noise level. Without a pipeline
    there is no loop, and each call is a step.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.step = -1
        self._last: tuple[int, int, float] | None = None

    def next(self, timesteps: np.ndarray | None, generation: int) -> int:
        """The step of the next call: its noise levels (batch,), and which encoding of prompts it belongs to."""
        mark = None if timesteps is None else (generation, levels_passed(self.pipe), float(timesteps[0]))
        if self.pipe is None or mark is None or mark != self._last:
            self.step += 1
        self._last = mark
        return self.step
