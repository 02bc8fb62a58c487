"""What each layer does: the attention budget, value norms, the causal test, guidance, the expert layer."""

from __future__ import annotations

from dataclasses import dataclass

from .generation import GenerationConfig


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


@dataclass(frozen=True)
class PerturbConfig:
    """The causal test (Seg4Diff, section 3.4, Fig. 5, 18): one edited layer at a time, the same seeds.

    ``edit`` is blur-text (the paper's), blur-grid, uniform or knockout; ``sigma``, ``kernel`` (None: 3 sigma to each
    side) and ``padding`` belong to the blurs. ``rows`` is conditional, the prompt's half of classifier-free guidance alone,
    or all, the negative prompt's too; the paper does not say which. ``batch`` prompts are generated together; the
    images depend on it in the last digits only.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    edit: str = "blur-text"
    sigma: float = 9.0
    kernel: int | None = 5
    padding: str = "reflect"
    rows: str = "conditional"
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 8
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class GuideConfig:
    """Perturbed guidance (Seg4Diff, Eq. 8, Fig. 6): eps + scale (eps - eps_perturbed), beside classifier-free guidance.

    ``batched`` makes the perturbed prediction in the same transformer call; False in one of its own, with less memory.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    sigma: float = 9.0
    kernel: int | None = 5
    padding: str = "reflect"
    seeds: tuple[int, ...] = (0, 1, 2)
    batch: int = 8
    batched: bool = True
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class ExpertConfig:
    """The search for the layer that grounds words, at one timestep counted from the clean end."""

    prompts: tuple[str, ...]
    timestep: int = 8
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class AgreementConfig:
    """Masks, features and value norms of each layer on ``scenes`` test scenes, at a timestep counted from the clean end."""

    scenes: int = 100
    timestep: int = 8
    generation: GenerationConfig = GenerationConfig()
