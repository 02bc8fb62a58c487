"""What each layer does: the attention budget, value norms, the causal test, guidance, the expert layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .edits import BLUR_EDGE, KERNEL, SIGMA, EditConfig, Padding
from .generation import BATCH, SEEDS, GenerationConfig, SamplingConfig
from .layers import Layers, layers_setting
from .setting import INPUT, METHOD, Setting, Settings
from .timesteps import TIMESTEP, Timesteps, chosen_timestep, chosen_timesteps, timesteps_setting

SweepBy = Literal["layer", "head", "step"]
_BOTH_ENDS = "8 and 28 of 28, scaled to --steps"


@dataclass(frozen=True, kw_only=True)
class _TwoTimesteps(Settings):
    """Prompts, and timesteps of which the paper takes 8 and 28 of 28."""

    prompts: tuple[str, ...] = ()
    timesteps: Annotated[Timesteps | None, timesteps_setting(_BOTH_ENDS)] = None
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chosen_timesteps  # refused here, not in the middle of a run

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``generation.steps``."""
        return chosen_timesteps(self.timesteps, (8, 28), self.generation.steps)


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(_TwoTimesteps):
    """The attention budget (Seg4Diff, section 3.2, Fig. 2)."""


@dataclass(frozen=True, kw_only=True)
class SinksConfig(_TwoTimesteps):
    """Attention sinks: the keys that take the most of the image's attention."""

    layers: Annotated[Layers, layers_setting()] = "all"
    every: Annotated[
        int, Setting("Read only every Nth image query; above 1, masses have a standard error.", METHOD, low=1)
    ] = 1
    top: Annotated[int, Setting("Keys kept for each head, the most attended first.", METHOD, low=1)] = 8


@dataclass(frozen=True, kw_only=True)
class NeglectConfig(_TwoTimesteps):
    """Words that add little to the image."""

    words: Annotated[
        tuple[str, ...],
        Setting("Words to compare, separated by commas.", INPUT, commas=True, default="every content word of a prompt"),
    ] = ()
    layers: Annotated[Layers, layers_setting()] = "all"
    neglected_below: Annotated[
        float,
        Setting("A word that adds less than this, times the prompt's other words, is neglected.", METHOD, above=0),
    ] = 0.5
    scene_sentences: Annotated[
        int,
        Setting(
            "Embedded models without prompts: number of scenes whose sentences are taken.", INPUT, low=1, high=10_000
        ),
    ] = 20


@dataclass(frozen=True, kw_only=True)
class ValueNormsConfig(_TwoTimesteps):
    """Value norms (Seg4Diff, Fig. 4)."""


@dataclass(frozen=True, kw_only=True)
class PerturbConfig(EditConfig):
    """The causal test (Seg4Diff, section 3.4, Fig. 5, 18): one edited layer at a time, the same seeds.

    The images depend on ``batch`` in the last digits only.
    """

    prompts: tuple[str, ...] = ()
    layers: Annotated[Layers, layers_setting()] = "expert"
    by: Annotated[
        SweepBy,
        Setting("What is edited by itself: each layer, each head of the layers, or each quarter of the steps in them."),
    ] = "layer"
    seeds: Annotated[tuple[int, ...], SEEDS] = (0, 1, 2)
    batch: Annotated[int, BATCH] = 8
    generation: SamplingConfig = SamplingConfig()


@dataclass(frozen=True, kw_only=True)
class GuideConfig(Settings):
    """Perturbed guidance (Seg4Diff, Eq. 8, Fig. 6): eps + scale (eps - eps_perturbed), in addition to classifier-free guidance."""

    prompts: tuple[str, ...] = ()
    layers: Annotated[Layers, layers_setting()] = "expert"
    scales: Annotated[
        tuple[float, ...],
        Setting("Guidance scales, separated by commas; 0 is plain.", flags=("--scales", "--scale"), low=-100, high=100),
    ] = (0.0, 1.0, 2.0, 4.0)
    sigma: Annotated[float, SIGMA] = 9.0
    kernel: Annotated[int | None, KERNEL] = 5
    blur_edge: Annotated[Padding, BLUR_EDGE] = "reflect"
    batched: Annotated[
        bool, Setting("The perturbed prediction in the same transformer call, or in one of its own with less memory.")
    ] = True
    seeds: Annotated[tuple[int, ...], SEEDS] = (0, 1, 2)
    batch: Annotated[int, BATCH] = 8
    generation: SamplingConfig = SamplingConfig()


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(Settings):
    """The search for the layer that grounds words, at one timestep."""

    prompts: tuple[str, ...] = ()
    timestep: Annotated[int | None, TIMESTEP] = None
    scene_count: Annotated[
        int,
        Setting(
            "Embedded models: number of scenes with masks to compare the ranking with; 0 for none.",
            METHOD,
            low=0,
            high=10_000,
        ),
    ] = 60
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chosen_timestep

    @property
    def chosen_timestep(self) -> int:
        """The timestep that is read, in 1 to ``generation.steps``."""
        return chosen_timestep(self, self.generation.steps)


@dataclass(frozen=True, kw_only=True)
class AgreementConfig(Settings):
    """Masks, features and value norms of each layer on ``scenes`` test scenes."""

    scenes: Annotated[int, Setting("Number of test scenes.", low=1)] = 100
    timestep: Annotated[int | None, TIMESTEP] = None
    generation: GenerationConfig = GenerationConfig()

    @property
    def chosen_timestep(self) -> int:
        """The timestep that is read, in 1 to ``generation.steps``."""
        return chosen_timestep(self, self.generation.steps)


@dataclass(frozen=True, kw_only=True)
class MetricConfig(Settings):
    """The models that generated images are measured with."""

    clip: Annotated[
        str | None,
        Setting(
            "CLIP for CLIP-T and CLIP-I, e.g. openai/clip-vit-base-patch16.",
            default="embedded models: their own tiny CLIP",
            is_place=True,
        ),
    ] = None
    dino: Annotated[
        str | None,
        Setting("DINO for the DINO metric, e.g. facebook/dino-vits16.", default="no DINO metric", is_place=True),
    ] = None
