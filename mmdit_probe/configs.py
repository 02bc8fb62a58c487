"""The one place for each study's defaults: plain frozen dataclasses, read by the CLI, analyses and notebooks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

LARGEST_SEED = 2**32 - 1
"""The largest that all the libraries' random streams take."""


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

    def __post_init__(self) -> None:
        _check_range("steps", self.steps, 1, 1000)
        _check_range("max_sequence_length", self.max_sequence_length, 0, None)
        _check_range("height", self.height, 1, None)
        _check_range("width", self.width, 1, None)
        _check_range("seed", self.seed, 0, LARGEST_SEED)
        scale = self.guidance_scale
        if scale is not None and not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"guidance_scale must be a number of 0 or more, got {scale}; 1 turns guidance off")


def _check_range(name: str, value: int | None, low: int, high: int | None) -> None:
    if value is not None and (value < low or (high is not None and value > high)):
        raise ValueError(f"{name} must be {low} {'or more' if high is None else f'to {high}'}, got {value}")


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
    """Principal components of the tokens' features (Seg4Diff, Fig. 3).

    ``scenes`` are numbers of built-in test scenes to read; without them a picture is generated from ``prompt``, or given.
    ``stream`` is image, text or both; ``padding`` counts padding among the text tokens.
    """

    prompt: str | None
    scenes: tuple[int, ...] = ()
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    generation: GenerationConfig = GenerationConfig()
    stream: str = "image"
    padding: bool = False


@dataclass(frozen=True)
class SegmentConfig:
    """Open-vocabulary segmentation (Seg4Diff, section 4.2).

    ``timestep`` counts from the clean end, of 28. ``crop`` stretches the whole picture to the model's square, as the
    released evaluation does, or takes the square in its centre, as the paper says. ``refine`` is none, i2i, or a rival's
    refinement (`rivals.joint`).
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

    ``task`` is open-vocabulary or unsupervised; ``method`` is seg4diff or one of its rivals; ``layers`` None is all;
    ``heads`` is mean or each; ``timesteps`` count from the clean end, of 28; ``vocabulary`` offers the classes present in
    each picture, as the paper does, or all of the data set's (full). ``normalize`` is probs, probs-minmax, scores or
    scores-minmax (Table 5). ``threshold`` is the unsupervised method's, ``variant`` and ``min_max`` Seg4Diff's merge's,
    ``baselines`` scores three simple ones beside it. ``batch`` pictures go through the model together; the numbers depend
    on it in the last digits only.
    """

    dataset: str = "scenes"
    task: str = "open-vocabulary"
    method: str = "seg4diff"
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


@dataclass(frozen=True)
class MagnetConfig:
    """MAGNET: a LoRA that is trained with a mask loss on one layer's I2T maps (Seg4Diff, section 5).

    The loss is ``flow matching + mask_weight (focal_weight focal + dice_weight dice)``. ``layer`` None is the expert layer.
    ``matching`` is token, which pairs each class name's map with that class's mask, or head, which pairs the maps of every
    text position and head with the masks by the Hungarian method on ``match_focal focal + match_dice dice``.

    One step takes ``batch * accumulate`` pictures in each process. ``rate`` rises over ``warmup`` steps, then falls to 0
    by a cosine; ``gradient_clip`` is the largest L2 norm of all gradients together. Noise levels are logit-normal with
    ``noise_mean`` and ``noise_std``, shifted as the model's scheduler does. ``read`` says what the mask loss reads: scores
    before the softmax, as released, or probs. ``released_focal`` takes the released code's focal loss, ``mask_head`` its small
    convolution on top of the maps (while training only).

    Masks of less than ``least_area`` of the picture are left out, of the others the ``most_masks`` largest kept;
    ``sentences`` cuts captions (None leaves them whole). ``ema`` is the decay of the averaged weights that are then saved
    in place of the last ones.
    """

    data: str = "scenes"
    layer: int | None = None
    matching: str = "token"
    rank: int = 16
    steps: int = 400
    batch: int = 32
    accumulate: int = 1
    rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    mask_weight: float = 4.0
    focal_weight: float = 0.1
    dice_weight: float = 0.2
    match_focal: float = 0.02
    match_dice: float = 1.0
    read: str = "scores"
    released_focal: bool = False
    mask_head: bool = False
    noise_mean: float = -1.0
    noise_std: float = 1.0
    most_masks: int = 32
    least_area: float = 0.005
    sentences: int | None = None
    crop: str = "center"
    max_sequence_length: int | None = None
    ema: float | None = None
    gradient_checkpointing: bool = False
    mixed_precision: str = "no"
    save_every: int = 100
    seed: int = 0


_PAPER = MagnetConfig(
    rate=1e-5,
    warmup=500,
    gradient_clip=0.01,
    batch=4,
    accumulate=4,
    mask_weight=1.0,
    noise_mean=0.0,
    noise_std=0.5,
    least_area=0.0,
)
MAGNET_PRESETS = {
    "scenes": MagnetConfig(),
    "folder": replace(_PAPER, data="folder", steps=1000),
    "coco": replace(_PAPER, data="coco", matching="token", steps=3000),
    "sa1b": replace(_PAPER, data="sa1b", matching="head", steps=1000, least_area=0.005, sentences=2),
}
"""Settings by kind of data: for the embedded model's scenes what it learns from in minutes, for COCO and SA-1B (and, in
their manner, folders of one's own) the paper's.

Scenes are trained with less noise and a larger mask weight than the paper's, which move the embedded model's masks little.
The paper's learning rate is 1e-4 times 0.1; the released SA-1B run had 8 pictures a step, the paper says 16.
"""


@dataclass(frozen=True)
class CompareConfig:
    """A model before and after MAGNET (Seg4Diff, Tables 1 to 3, Fig. 12, 13).

    Masks are compared on ``limit`` pictures of ``dataset`` at ``timesteps`` counted from the clean end; pictures are
    generated for ``prompts`` and ``seeds``, the same before and after.
    """

    prompts: tuple[str, ...]
    layer: int | None = None
    dataset: str = "scenes"
    limit: int | None = None
    timesteps: tuple[int, ...] = (8,)
    seeds: tuple[int, ...] = (0, 1)
    batch: int = 8
    generation: GenerationConfig = GenerationConfig()


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain data."""
    return asdict(config)
