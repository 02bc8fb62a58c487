"""The one place for each study's defaults: plain frozen dataclasses, read by the CLI, analyses and notebooks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GenerationConfig:
    """How pictures are generated.

    ``guidance_scale`` and ``max_sequence_length`` None take the model's own default: the paper's 7.5 and 77
    (77 CLIP + 77 zero T5 positions = 154) for SD3.
    """

    steps: int = 28
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class BudgetConfig:
    """The attention budget (Seg4Diff, section 3.2, Fig. 2).

    ``timesteps`` count from the clean end: 8 of 28 is the 21st step.
    """

    prompts: tuple[str, ...]
    timesteps: tuple[int, ...] = (8, 28)
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class ValueNormsConfig:
    """Value norms (Seg4Diff, Fig. 4); ``timesteps`` count from the clean end."""

    prompts: tuple[str, ...]
    timesteps: tuple[int, ...] = (8, 28)
    generation: GenerationConfig = GenerationConfig()


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain data."""
    return asdict(config)
