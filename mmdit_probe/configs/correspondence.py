"""Correspondence: what in one image or frame is what in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from .generation import GenerationConfig
from .layers import Layers, layers_setting
from .setting import INPUT, METHOD, Setting, Settings
from .timesteps import Timesteps, chosen_timesteps, timesteps_setting

Match = Literal["qk", "output", "query", "key", "value"]


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(Settings):
    """Matching the tokens of two images, or of a video's frames.

    Pairs of scenes in which one thing has moved, without ``first`` and ``second`` and without ``prompts``; two given images;
    or the frames of the videos that ``prompts`` make.
    """

    prompts: tuple[str, ...] = ()
    match: Annotated[
        Match,
        Setting(
            "What is matched: qk, the softmax of queries on the other image's keys; output, query, key or value, the cosine of "
            "these vectors."
        ),
    ] = "qk"
    first: Annotated[
        Path | None, Setting("An image file, to be matched with --second.", INPUT, default="pairs of moved scenes")
    ] = None
    second: Annotated[Path | None, Setting("The other image file.", INPUT, default="pairs of moved scenes")] = None
    pairs: Annotated[
        int, Setting("Pairs of scenes, of which one thing has moved in the second.", INPUT, low=1, high=10_000)
    ] = 40
    within: Annotated[
        int, Setting("A match is right if it is so many tokens off at most, down and across.", METHOD, low=0)
    ] = 1
    frame: Annotated[int, Setting("Videos: the frame whose tokens are matched to every frame.", METHOD, low=0)] = 0
    layers: Annotated[Layers, layers_setting()] = "all"
    timesteps: Annotated[Timesteps | None, timesteps_setting()] = None
    generation: GenerationConfig = GenerationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.first is None) != (self.second is None):
            raise ValueError("first: give two images, first and second, or neither")
        _ = self.chosen_timesteps

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``generation.steps``."""
        return chosen_timesteps(self.timesteps, (8,), self.generation.steps)
