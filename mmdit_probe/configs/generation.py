"""How images are generated."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

LARGEST_SEED = 2**32 - 1
"""The largest that all the libraries' random streams take."""


@dataclass(frozen=True)
class GenerationConfig:
    """How images are generated.

    ``guidance_scale`` and ``max_sequence_length`` None take the model's own default: the paper's 7.5 and 77
    (77 CLIP + 77 zero T5 positions = 154) for SD3. Which scale turns guidance off depends on the pipeline: 1 for most, SD3
    among them, 0 for Z-Image; models distilled with guidance, such as Flux.1-dev, are told the number, and none turns it off.
    """

    steps: int = 28
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_range("steps", self.steps, 1, 1000)
        _check_range("max_sequence_length", self.max_sequence_length, 0, None)
        _check_range("height", self.height, 1, None)
        _check_range("width", self.width, 1, None)
        _check_range("seed", self.seed, 0, LARGEST_SEED)
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and scale >= 0):
            raise ValueError(
                f"guidance_scale must be a number of 0 or more, got {scale}; no guidance is 1 for most pipelines, 0 for Z-Image"
            )


def _check_range(name: str, value: int | None, low: int, high: int | None) -> None:
    if value is not None and (value < low or (high is not None and value > high)):
        raise ValueError(f"{name} must be {low} {'or more' if high is None else f'to {high}'}, got {value}")


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain data."""
    return asdict(config)
