"""Timesteps as the paper counts them: from the clean end, t = 8 of 28 is the 21st step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from .setting import METHOD, Setting

PAPER_STEPS = 28
"""The number of sampling steps of the paper, of which its timesteps are numbers."""
Timesteps = tuple[int, ...] | Literal["all"]

_FLAGS = ("--timesteps", "--timestep")
_COUNTED = "counted from the clean end: 8 of 28 is the 21st step"
_ONE = "8 of 28, scaled to --steps"


def timesteps_setting(default: str = _ONE) -> Setting:
    """The setting of several timesteps; ``default`` says in words which are taken if none are given."""
    text = f"Timesteps to read, {_COUNTED}. Numbers and ranges such as 8,20-28, or all."
    return Setting(text, METHOD, low=1, flags=_FLAGS, default=default)


TIMESTEP = Setting(f"The timestep to read, {_COUNTED}.", METHOD, low=1, flags=_FLAGS, default=_ONE)


def scaled_timesteps(timesteps: Sequence[int], steps: int) -> tuple[int, ...]:
    """Timesteps of the paper's 28 in a run of another number of steps, each once: 8 of 28 is 1 of 4, 14 of 50.

    >>> scaled_timesteps((8, 28), 28), scaled_timesteps((8, 28), 4), scaled_timesteps((8, 28), 50)
    ((8, 28), (1, 4), (14, 50))
    """
    return tuple(dict.fromkeys(max(1, round(timestep * steps / PAPER_STEPS)) for timestep in timesteps))


def chosen_timesteps(timesteps: Timesteps | None, default: Sequence[int], steps: int) -> tuple[int, ...]:
    """The numbers: those given, all of them, or the default ones scaled to the run's number of steps.

    `ValueError` if one is not in 1 to ``steps``.
    """
    if timesteps is None:
        return scaled_timesteps(default, steps)
    if timesteps == "all":
        return tuple(range(steps, 0, -1))
    for timestep in timesteps:
        if isinstance(timestep, str) or not 1 <= timestep <= steps:
            raise ValueError(f"timesteps: must be in 1 to {steps} (the number of steps), got {timestep}")
    return tuple(timesteps)


def chosen_timestep(config: Any, steps: int) -> int:
    """The one timestep that a config's ``timestep`` asks for; None is the paper's 8 of 28, scaled to ``steps``."""
    wanted = None if config.timestep is None else (config.timestep,)
    return chosen_timesteps(wanted, (8,), steps)[0]
