"""Causal tracing, and words bound to places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .edits import BINDING, REGION_HELP, TOKENS, WHAT, Binding, PatchedStates
from .generation import BATCH, SEEDS, GenerationConfig, SamplingConfig
from .layers import Layers, layers_setting
from .setting import INPUT, METHOD, Setting, Settings

HeadScore = Literal["clip_t", "scene"]


@dataclass(frozen=True, kw_only=True)
class PatchConfig(Settings):
    """Causal tracing: states of one prompt's run, written into another prompt's, layer by layer."""

    source: Annotated[
        tuple[str, ...],
        Setting(
            "A prompt whose states are taken; repeatable.",
            INPUT,
            flags=("--from", "--source"),
            default="embedded models: built-in pairs",
        ),
    ] = ()
    to: Annotated[
        tuple[str, ...],
        Setting("The prompt that is generated with them; repeatable, one for each --from.", INPUT, default="as above"),
    ] = ()
    what: Annotated[PatchedStates, WHAT] = "output"
    tokens: Annotated[str, TOKENS] = "all"
    layers: Annotated[Layers, layers_setting()] = "all"
    steps_from: Annotated[
        tuple[int, ...],
        Setting(
            "Steps from which on states are written, separated by commas; 0 is the first and noisiest.",
            METHOD,
            low=0,
            default="0 and each further quarter of --steps",
        ),
    ] = ()
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.starts

    @property
    def starts(self) -> tuple[int, ...]:
        """The steps from which on states are written; `ValueError` if the run has no such step."""
        steps = self.generation.steps
        starts = self.steps_from or tuple(sorted({steps * quarter // 4 for quarter in range(4)}))
        late = [start for start in starts if start >= steps]
        if late:
            raise ValueError(f"steps_from must be below the number of steps, {steps}, got {late[0]}")
        return tuple(dict.fromkeys(starts))


@dataclass(frozen=True, kw_only=True)
class BindConfig(Settings):
    """Words bound to places of the image, drawn with and without."""

    region: Annotated[tuple[str, ...], Setting(REGION_HELP, INPUT, default="embedded models: built-in layouts")] = ()
    layouts: Annotated[
        int, Setting("Embedded models, without --region: number of built-in layouts.", METHOD, low=1, high=1000)
    ] = 40
    binding: Annotated[Binding, BINDING] = "soft"
    strength: Annotated[float, Setting("What soft adds inside a place and takes outside.", METHOD, low=0, high=50)] = (
        4.0
    )
    layers: Annotated[Layers, layers_setting()] = "expert"
    bind_steps: Annotated[
        int | None, Setting("Number of steps that are bound, from the first on.", METHOD, low=1, default="all")
    ] = None
    seeds: Annotated[tuple[int, ...], SEEDS] = (0,)
    generation: SamplingConfig = SamplingConfig()


@dataclass(frozen=True, kw_only=True)
class FindHeadsConfig(Settings):
    """The greedy search for heads to guide with (HeadHunter, arXiv 2506.10978)."""

    prompts: tuple[str, ...] = ()
    layers: Annotated[Layers, layers_setting()] = "expert"
    score: Annotated[
        HeadScore,
        Setting(
            "The score to raise: clip_t by --clip, or scene, the share of a prompt's facts (embedded models alone)."
        ),
    ] = "clip_t"
    most: Annotated[int, Setting("Heads that are chosen at most.", METHOD, low=1)] = 3
    scale: Annotated[float, Setting("Guidance scale.", METHOD, above=0, high=100)] = 2.0
    amount: Annotated[float, Setting("How far a head's attention goes to the identity.", METHOD, above=0, high=1)] = 1.0
    seeds: Annotated[tuple[int, ...], SEEDS] = (0,)
    batch: Annotated[int, BATCH] = 8
    generation: SamplingConfig = SamplingConfig()
