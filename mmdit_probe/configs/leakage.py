"""Leakage: how much of a word's map lies on other objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_args

from .generation import BATCH, MAX_SEQUENCE_LENGTH, SEED, STEPS
from .layers import Layers, layers_setting
from .reading import AGGREGATE, Read, check_aggregate
from .segmentation import CROP, LIMIT, Crop
from .setting import INPUT, Setting, Settings
from .timesteps import PAPER_STEPS, Timesteps, chosen_timesteps, timesteps_setting


@dataclass(frozen=True, kw_only=True)
class LeakageConfig(Settings):
    """Leakage of words' maps on labeled images; the measure is AnchorDiff's (arXiv 2605.26460).

    ``read`` holds one or more readings (`configs.reading`), each a pass over the images.
    """

    dataset: str = "scenes"
    objects: Annotated[
        tuple[str, ...],
        Setting(
            "Classes that count as objects, separated by commas; what else is labeled is background.",
            INPUT,
            commas=True,
            default="every class",
        ),
    ] = ()
    layers: Annotated[Layers, layers_setting()] = "all"
    timesteps: Annotated[Timesteps | None, timesteps_setting()] = None
    steps: Annotated[int, STEPS] = PAPER_STEPS
    read: Annotated[
        tuple[str, ...],
        Setting(f"What is read of each word, separated by commas: {', '.join(get_args(Read))}.", commas=True),
    ] = ("i2t",)
    aggregate: Annotated[str, AGGREGATE] = "layer"
    crop: Annotated[Crop, CROP] = "stretch"
    batch: Annotated[int, BATCH] = 8
    seed: Annotated[int, SEED] = 0
    limit: Annotated[int | None, LIMIT] = None
    max_sequence_length: Annotated[int | None, MAX_SEQUENCE_LENGTH] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregate(self.aggregate)
        known = get_args(Read)
        wrong = [name for name in self.read if name not in known]
        if wrong or not self.read or len(set(self.read)) < len(self.read):
            raise ValueError(
                f"read must be some of {', '.join(known)}, each once, got {', '.join(self.read) or 'none'}"
            )
        _ = self.chosen_timesteps

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``steps``."""
        return chosen_timesteps(self.timesteps, (8,), self.steps)
