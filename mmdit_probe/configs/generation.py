"""How images are generated, and which images are read instead."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from .setting import GENERATION, INPUT, LARGEST_SEED, METHOD, Setting, Settings
from .timesteps import PAPER_STEPS

MAX_SEQUENCE_LENGTH = Setting(
    "T5 positions; the model's own default if not given (SD3: 77, the paper's 154 text tokens).", GENERATION, low=0
)
BATCH = Setting("Prompts or images that go through the model together.", METHOD, low=1)
STEPS = Setting("Sampling steps.", GENERATION, low=1, high=1000)
REFERENCE = Setting(
    "A reference image for an editing model; repeatable, in the order in which the prompt speaks of them.",
    INPUT,
    default="none",
    is_place=True,
)
SEED = Setting("Seed of the starting noise.", GENERATION, low=0, high=LARGEST_SEED)
SEEDS = Setting(
    "Seeds of the starting noise, separated by commas.", GENERATION, low=0, high=LARGEST_SEED, flags=("--seeds",)
)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How images are generated, without a seed.

    ``guidance_scale`` and ``max_sequence_length`` None take the model's own default: the paper's 7.5 and 77
    (77 CLIP + 77 zero T5 positions = 154) for SD3. Which scale turns guidance off depends on the pipeline: 1 for most, SD3
    included, 0 for Z-Image; guidance-distilled models such as Flux.1-dev take the scale as an input; no value disables it.
    ``reference`` are files of the images that an editing model is given beside the prompt.
    """

    steps: Annotated[int, STEPS] = PAPER_STEPS
    guidance_scale: Annotated[
        float | None,
        Setting(
            "Classifier-free guidance; the model's own default if not given. Which number turns it off depends on the "
            "pipeline: 1 for most, 0 for Z-Image.",
            GENERATION,
            low=0,
        ),
    ] = None
    max_sequence_length: Annotated[int | None, MAX_SEQUENCE_LENGTH] = None
    height: Annotated[int | None, Setting("Image height in px.", GENERATION, low=1)] = None
    width: Annotated[int | None, Setting("Image width in px.", GENERATION, low=1)] = None
    reference: Annotated[tuple[str, ...], REFERENCE] = ()


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(SamplingConfig):
    """How one image is generated: `SamplingConfig` and the seed of its starting noise."""

    seed: Annotated[int, SEED] = 0


def seeded(sampling: SamplingConfig, seed: int) -> GenerationConfig:
    """The same with a seed."""
    return GenerationConfig(
        **{field.name: getattr(sampling, field.name) for field in fields(SamplingConfig)}, seed=seed
    )


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Settings):
    """Prompts, given one by one or in a file with one a line; neither are those of the built-in scenes."""

    prompt: Annotated[
        tuple[str, ...], Setting("A prompt; repeatable.", INPUT, default="prompts of the built-in scenes")
    ] = ()
    prompts: Annotated[Path | None, Setting("A text file with one prompt a line.", INPUT)] = None


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Settings):
    """An image that is read in place of a generated one, with one forward pass at each timestep."""

    image: Annotated[
        Path | None,
        Setting("An image file to read instead of generating one; one forward pass a timestep.", INPUT),
    ] = None
    longest: Annotated[
        int | None, Setting("Longer side of --image in px; the model's own size if not given.", INPUT, low=1)
    ] = None
