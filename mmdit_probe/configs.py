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


@dataclass(frozen=True)
class PerturbConfig:
    """The causal test (Seg4Diff, section 3.4, Fig. 5, 18): one edited layer at a time, the same seeds.

    ``edit`` is blur-text (the paper's), blur-grid, uniform or knockout; ``sigma``, ``kernel`` (None: 3 sigma to each
    side) and ``padding`` belong to the blurs. ``batch`` prompts are generated together; the pictures depend on it in the
    last digits only.
    """

    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    edit: str = "blur-text"
    sigma: float = 9.0
    kernel: int | None = 5
    padding: str = "reflect"
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
class MapsConfig:
    """Heat maps of words (Seg4Diff, Fig. 9, 16).

    ``layers`` None reads all; ``direction`` is i2t (image queries on the word) or t2i; ``heads`` is mean or all.
    """

    prompt: str
    words: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    direction: str = "i2t"
    heads: str = "mean"
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class PCAConfig:
    """Principal components of the image tokens' features (Seg4Diff, Fig. 3).

    ``scenes`` are numbers of built-in test scenes to read; without them a picture is generated from ``prompt``, or given.
    """

    prompt: str | None
    scenes: tuple[int, ...] = ()
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class SegmentConfig:
    """Open-vocabulary segmentation (Seg4Diff, section 4.2).

    ``timestep`` counts from the clean end, of 28. ``crop`` stretches the whole picture to the model's square, as the
    released evaluation does, or takes the square in its centre, as the paper says. ``refine`` is none or i2i.
    """

    timestep: int = 8
    crop: str = "stretch"
    refine: str = "none"
    seed: int = 0
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class GroupConfig:
    """Regions without words (Seg4Diff, section 4.3); the defaults are what the released code does.

    ``threshold`` is a symmetric KL divergence in nats; ``variant`` is released or paper-text; ``min_max`` scales each grid
    point's values over the tokens before the merge (released only).
    """

    threshold: float = 0.1
    variant: str = "released"
    min_max: bool = True
    timestep: int = 8
    crop: str = "stretch"
    seed: int = 0
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class AnalyzeConfig:
    """All studies of one picture in one pass; no ``words`` maps every content word of the prompt."""

    prompt: str
    words: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class ExploreConfig:
    """The explorer page of one picture.

    ``layers`` and ``timesteps`` None keep all of them for grids of up to ``small`` image tokens, otherwise the expert
    layer with five others and the timesteps 8 and 28. At most ``head_groups`` groups of heads are kept beside the mean
    over all heads, and fewer where the page would be larger than ``megabytes``.
    """

    prompt: str
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] | None = None
    head_groups: int = 8
    megabytes: float = 15.0
    small: int = 256
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class EvaluateConfig:
    """Masks against ground truth (Seg4Diff, Tables 1, 2, 5, Fig. 8, 15, 17).

    ``task`` is open-vocabulary or unsupervised; ``layers`` None is all; ``heads`` is mean or each; ``timesteps`` count
    from the clean end, of 28; ``vocabulary`` offers the classes present in each picture, as the paper does, or all of the
    data set's (full). ``normalize`` is probs, probs-minmax, scores or scores-minmax (Table 5). ``threshold``, ``variant``
    and ``min_max`` are the unsupervised merge's, ``baselines`` scores three simple ones beside it. ``batch`` pictures go
    through the model together; the numbers depend on it in the last digits only.
    """

    dataset: str = "scenes"
    task: str = "open-vocabulary"
    layers: tuple[int, ...] | None = None
    heads: str = "mean"
    timesteps: tuple[int, ...] = (8,)
    vocabulary: str = "present"
    crop: str = "stretch"
    normalize: str = "probs"
    refine: str = "none"
    threshold: float = 0.1
    variant: str = "released"
    min_max: bool = True
    baselines: bool = False
    batch: int = 8
    seed: int = 0
    limit: int | None = None
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class AgreementConfig:
    """Masks, features and value norms of each layer on ``scenes`` test scenes, at a timestep counted from the clean end."""

    scenes: int = 100
    timestep: int = 8
    generation: GenerationConfig = GenerationConfig()


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain data."""
    return asdict(config)
