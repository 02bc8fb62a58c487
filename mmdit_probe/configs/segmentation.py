"""Masks from attention, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from .generation import BATCH, MAX_SEQUENCE_LENGTH, SEED, STEPS
from .layers import Layers, layers_setting
from .reading import AGGREGATE, READ, Read, check_aggregate
from .setting import INPUT, Setting, Settings
from .single_image import HEADS, Heads
from .timesteps import PAPER_STEPS, TIMESTEP, Timesteps, chosen_timestep, chosen_timesteps, timesteps_setting

Task = Literal["open-vocabulary", "unsupervised"]
Method = Literal["seg4diff", "diffsegmenter", "iseg", "proxyclip", "corrclip", "diffseg", "diffcut"]
NamedMethod = Literal["seg4diff", "diffsegmenter", "iseg", "proxyclip", "corrclip"]
RegionMethod = Literal["seg4diff", "diffseg", "diffcut"]
Crop = Literal["stretch", "center"]
Refine = Literal["none", "i2i", "diffsegmenter", "iseg", "corrclip-vote"]
Variant = Literal["released", "paper-text"]
Normalize = Literal["probs", "probs-minmax", "scores", "scores-minmax"]
"""Table 5: maps after (probs) or before (scores) the softmax; minmax scales each class map to [0, 1] by its own range."""
Vocabulary = Literal["present", "full"]
MERGE_THRESHOLD = 0.1
"""Maps closer than this become one region (symmetric KL, nats): Seg4Diff's, as released."""

CROP = Setting("stretch: the whole image, as the released code; center: its middle square, as the paper.")
LIMIT = Setting("Only the first images.", INPUT, low=1, default="all; 300 of scenes")
_VARIANT = Setting(
    "The regions' merge: released is what the released code does; in paper-text each map joins one region only.",
    flags=("--merge",),
)
_MIN_MAX = Setting("Regions: scale each grid point over the tokens before the merge (released only).")
_THRESHOLD = Setting(
    "Regions. seg4diff, diffseg: maps closer than this (symmetric KL, nats) become one region; diffcut: normalized cuts "
    "below this are made.",
    above=0,
    default=f"{MERGE_THRESHOLD}; diffseg 1.1, on an MM-DiT 0.3 (tuned on tiny-sd3); diffcut 0.5",
)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(Settings):
    """The choices that baselines add: how Seg4Diff's maps are refined, and the other models that they need."""

    refine: Annotated[
        Refine,
        Setting(
            "Seg4Diff's maps refined: i2i or diffsegmenter, smoothed by the image's own attention; iseg, smoothed "
            "repeatedly by a sharpened version of it, with longer words; corrclip-vote, one class for every mask of --sam."
        ),
    ] = "none"
    refine_steps: Annotated[
        int | None,
        Setting(
            "How often the maps are smoothed.", low=1, default="1 for diffsegmenter; for iseg 8, 5 or 10 by data set"
        ),
    ] = None
    refine_entropy: Annotated[
        float | None,
        Setting("iseg: how much the attention is sharpened.", low=0, default="0.015, 0.002 or 0.2 by data set"),
    ] = None
    sam: Annotated[
        str | None,
        Setting(
            "SAM or SAM 2 for corrclip and corrclip-vote, hub id or folder.",
            default="corrclip: facebook/sam2.1-hiera-large; corrclip-vote: connected parts of one color, no model",
            is_place=True,
        ),
    ] = None
    dino_backbone: Annotated[
        str | None,
        Setting("DINO for proxyclip and corrclip, hub id or folder.", default="facebook/dino-vitb8", is_place=True),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ImagePassConfig(Settings):
    """One pass over a given image: noise for ``timestep`` of ``steps`` from ``seed``, then one call of the transformer.

    ``crop`` stretches the whole image to the model's square, as the released evaluation does, or takes its middle square, as
    the paper says.
    """

    timestep: Annotated[int | None, TIMESTEP] = None
    steps: Annotated[int, STEPS] = PAPER_STEPS
    crop: Annotated[Crop, CROP] = "stretch"
    seed: Annotated[int, SEED] = 0
    max_sequence_length: Annotated[int | None, MAX_SEQUENCE_LENGTH] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chosen_timestep

    @property
    def chosen_timestep(self) -> int:
        """The timestep that is read, in 1 to ``steps``."""
        return chosen_timestep(self, self.steps)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(ImagePassConfig):
    """Open-vocabulary segmentation (Seg4Diff, section 4.2).

    ``read`` and ``aggregate`` are explained in `configs.reading`; ``refine`` is none, i2i, or a baseline's refinement
    (`baselines.on_mmdit`).
    """

    read: Annotated[Read, READ] = "i2t"
    aggregate: Annotated[str, AGGREGATE] = "layer"
    refine: Refine = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregate(self.aggregate)


@dataclass(frozen=True, kw_only=True)
class GroupConfig(ImagePassConfig):
    """Regions without words (Seg4Diff, section 4.3); the defaults are what the released code does.

    ``threshold`` is a symmetric KL divergence in nats. ``min_max`` scales each grid point's values over the tokens before the
    merge (released only).
    """

    threshold: float = MERGE_THRESHOLD
    variant: Annotated[Variant, _VARIANT] = "released"
    min_max: Annotated[bool, _MIN_MAX] = True


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Settings):
    """Where a data set lies."""

    root: Annotated[Path | None, Setting("The data set's folder, as released.", INPUT, default="scenes need none")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class OneLayerConfig(Settings):
    """The one layer of a study that reads one."""

    layers: Annotated[Layers, layers_setting()] = "expert"


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Settings):
    """How many images go through the model together."""

    batch: Annotated[int, BATCH] = 8


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig(Settings):
    """The regions' threshold of whichever method runs; None is the method's own."""

    threshold: Annotated[float | None, _THRESHOLD] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Settings):
    """Masks against ground truth (Seg4Diff, Tables 1, 2, 5, Fig. 8, 15, 17).

    ``threshold``, ``variant`` and ``min_max`` belong to the unsupervised task, as does ``trivial``. The numbers depend on
    ``batch`` in the last digits only. ``normalize`` is Table 5's.
    """

    dataset: str = "scenes"
    task: Task = "open-vocabulary"
    method: Method = "seg4diff"
    layers: Annotated[Layers, layers_setting()] = "all"
    heads: Annotated[Heads, HEADS] = "mean"
    timesteps: Annotated[Timesteps | None, timesteps_setting()] = None
    steps: Annotated[int, STEPS] = PAPER_STEPS
    vocabulary: Annotated[
        Vocabulary,
        Setting("Classes that the prompt offers: those in the image, as the paper, or all of the data set."),
    ] = "present"
    crop: Annotated[Crop, CROP] = "stretch"
    normalize: Annotated[
        Normalize, Setting("Maps after or before the softmax, unchanged or each scaled to [0, 1] (Table 5).")
    ] = "probs"
    read: Annotated[Read, READ] = "i2t"
    aggregate: Annotated[str, AGGREGATE] = "layer"
    refine: Refine = "none"
    threshold: float = MERGE_THRESHOLD
    variant: Annotated[Variant, _VARIANT] = "released"
    min_max: Annotated[bool, _MIN_MAX] = True
    trivial: Annotated[bool, Setting("Unsupervised: also one region, k-means on colors and on positions.")] = False
    batch: Annotated[int, BATCH] = 8
    seed: Annotated[int, SEED] = 0
    limit: Annotated[int | None, LIMIT] = None
    max_sequence_length: Annotated[int | None, MAX_SEQUENCE_LENGTH] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregate(self.aggregate)
        _ = self.chosen_timesteps

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``steps``."""
        return chosen_timesteps(self.timesteps, (8,), self.steps)
