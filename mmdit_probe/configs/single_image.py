"""What is looked at in one image: maps of words, principal components, everything at once, the explorer page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from .generation import SEEDS, GenerationConfig
from .layers import Layers, layers_setting
from .reading import AGGREGATE, READ, Read, check_aggregate
from .setting import INPUT, METHOD, Setting, Settings
from .timesteps import Timesteps, chosen_timesteps, timesteps_setting

Direction = Literal["i2t", "t2i"]
Heads = Literal["mean", "all"]
"""Maps averaged over heads, or one for each head."""
Stream = Literal["image", "text", "both"]

OVER_TIMESTEPS = ("gif", "strip")
ANIMATIONS = (*OVER_TIMESTEPS, "frames")
"""How maps move."""
REGIONS_SHOWN = ("t2i", "t2t", "i2i", "sinks")
"""What a page shows beside I2T maps."""
HEADS = Setting("The mean over heads, or all: each head separately too.")
HEAD_GROUPS = Setting("Most groups of heads, in addition to the mean over all heads.", low=1)
KEPT_LAYERS = layers_setting("all of a small grid, else 6")
KEPT_TIMESTEPS = timesteps_setting("all of a small grid, else 8 and 28 of 28, scaled to --steps")
_READ = layers_setting()
_TIMESTEPS = timesteps_setting()


@dataclass(frozen=True, kw_only=True)
class _SingleImage(Settings):
    """One image at some timesteps, the paper's t = 8 of 28 if none are given."""

    layers: Annotated[Layers, _READ] = "all"
    timesteps: Annotated[Timesteps | None, _TIMESTEPS] = None
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chosen_timesteps  # refused here, not in the middle of a run

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``generation.steps``."""
        return chosen_timesteps(self.timesteps, (8,), self.generation.steps)


@dataclass(frozen=True, kw_only=True)
class MapsConfig(_SingleImage):
    """Heat maps of words (Seg4Diff, Fig. 9, 16). ``direction`` is what is read, see `configs.reading`."""

    prompt: str = ""
    words: Annotated[
        tuple[str, ...],
        Setting(
            "Words or phrases of the prompt, separated by commas; circle#2 is the second circle. Of several prompts each is "
            "read for those that stand in it.",
            INPUT,
            commas=True,
            default="every content word of the prompt",
        ),
    ] = ()
    direction: Annotated[Read, replace(READ, flags=("--read", "--direction"))] = "i2t"
    aggregate: Annotated[str, AGGREGATE] = "layer"
    heads: Annotated[Heads, HEADS] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregate(self.aggregate)


@dataclass(frozen=True, kw_only=True)
class SeveralConfig(Settings):
    """Several images of one run of maps, and maps that move."""

    seeds: Annotated[
        tuple[int, ...],
        replace(SEEDS, default="--seed alone: one image of each prompt"),
    ] = ()
    animate: Annotated[
        tuple[str, ...],
        Setting(
            "Maps that move, separated by commas: gif and strip, an animation and a row of pictures over the timesteps, all of "
            "them unless --timesteps names some; frames, both over the frames of a video. They are of one layer, the model's "
            "known one unless --layers names another.",
            METHOD,
            commas=True,
            default="none",
        ),
    ] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.animate if name not in ANIMATIONS]
        if unknown:
            raise ValueError(f"animate must be some of {', '.join(ANIMATIONS)}, got {unknown[0]!r}")

    def of_one_layer(self, config: MapsConfig) -> MapsConfig:
        """What is read where maps are to move: all timesteps if none are named, and one layer.

        `ValueError` if several layers are named and are not put together, or there is one timestep to show.
        """
        if not self.animate:
            return config
        if set(self.animate) & set(OVER_TIMESTEPS):
            config = replace(config, timesteps="all") if config.timesteps is None else config
            if len(config.chosen_timesteps) < 2:
                raise ValueError(
                    "animate: over timesteps takes two or more, got 1; give --timesteps all, or more --steps"
                )
        if config.aggregate != "layer":
            return config
        if config.layers == "all":
            return replace(config, layers="expert")
        if isinstance(config.layers, tuple) and len(config.layers) > 1:
            raise ValueError(
                f"animate: shows one layer, got {len(config.layers)}; name one with --layer, or put them together with "
                f"--aggregate mean"
            )
        return config


@dataclass(frozen=True, kw_only=True)
class PCAConfig(_SingleImage):
    """Principal components of the tokens' features (Seg4Diff, Fig. 3).

    With ``scenes`` the built-in test scenes of these numbers are read; without, an image is generated from ``prompt``, or
    given.
    """

    prompt: Annotated[str | None, Setting("The prompt.", INPUT, default="with --scenes, the scene's own sentence")] = (
        None
    )
    scenes: Annotated[
        tuple[int, ...],
        Setting(
            "Numbers of built-in test scenes to read with their label maps, such as 0,1,2.", INPUT, low=0, high=2**31
        ),
    ] = ()
    stream: Annotated[Stream, Setting("Whose features: of image tokens, of text tokens, or both.")] = "image"
    include_padding: Annotated[bool, Setting("Text: padding and absent encoders' positions take part too.", METHOD)] = (
        False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.include_padding and self.stream == "image":
            raise ValueError("include_padding is about text tokens; choose the stream text or both")


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(_SingleImage):
    """All studies of one image in one pass; no ``words`` maps every content word of the prompt."""

    prompt: Annotated[str, Setting("The prompt.", INPUT, required=True)] = ""
    words: Annotated[
        tuple[str, ...],
        Setting("Words to map, separated by commas.", INPUT, commas=True, default="every content word of the prompt"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(Settings):
    """The explorer page of one image.

    ``layers`` and ``timesteps`` None keep all of them for grids of up to ``small`` image tokens, otherwise the expert
    layer with five others and the timesteps 8 and 28 of 28. At most ``head_groups`` groups of heads are kept in addition to
    the mean over all heads, and fewer if the page would be larger than ``megabytes``.
    """

    prompt: Annotated[
        str | None, Setting("The prompt.", INPUT, default="embedded models: that of a built-in scene")
    ] = None
    layers: Annotated[Layers | None, KEPT_LAYERS] = None
    timesteps: Annotated[Timesteps | None, KEPT_TIMESTEPS] = None
    head_groups: Annotated[int, HEAD_GROUPS] = 8
    megabytes: Annotated[
        float, Setting("Largest size of the page; fewer groups of heads are kept if need be.", low=0.1)
    ] = 15.0
    regions: Annotated[
        tuple[str, ...],
        Setting(
            "What the page shows beside I2T, separated by commas: t2i, t2t, i2i (with it references), sinks; none of them "
            "with none.",
            METHOD,
            commas=True,
        ),
    ] = REGIONS_SHOWN
    small: int = 256
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.regions if name not in REGIONS_SHOWN]
        if unknown and self.regions != ("none",):
            raise ValueError(f"regions must be some of {', '.join(REGIONS_SHOWN)}, or none, got {unknown[0]!r}")
        if self.timesteps is not None:
            chosen_timesteps(self.timesteps, (), self.generation.steps)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """The report of one image: ``layers`` and ``timesteps`` None are chosen as by `ExploreConfig`."""

    prompt: Annotated[str | None, Setting("The prompt.", INPUT, default="--words joined, or a built-in scene's")] = None
    words: Annotated[
        tuple[str, ...],
        Setting("Words to map, separated by commas.", INPUT, commas=True, default="every content word of the prompt"),
    ] = ()
    layers: Annotated[Layers | None, KEPT_LAYERS] = None
    timesteps: Annotated[Timesteps | None, KEPT_TIMESTEPS] = None
    head_groups: Annotated[int, HEAD_GROUPS] = 8
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timesteps is not None:
            chosen_timesteps(self.timesteps, (), self.generation.steps)
