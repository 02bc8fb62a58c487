"""MAGNET: what it is trained with, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from .generation import BATCH, MAX_SEQUENCE_LENGTH, SEED, SEEDS, SamplingConfig
from .setting import INPUT, OUTPUT, Setting, Settings
from .timesteps import Timesteps, chosen_timesteps, timesteps_setting

Matching = Literal["token", "head"]
Reading = Literal["scores", "probs"]
MixedPrecision = Literal["no", "fp16", "bf16"]
Preset = Literal["scenes", "folder", "coco", "sa1b"]


@dataclass(frozen=True, kw_only=True)
class MagnetConfig(Settings):
    """MAGNET: a LoRA that is trained with a mask loss on one layer's I2T maps (Seg4Diff, section 5).

    The loss is ``flow matching + mask_weight (focal_weight focal + dice_weight dice)``. ``layer`` None is the expert layer.
    The Hungarian matching of ``matching="head"`` costs ``match_focal focal + match_dice dice``. One step takes
    ``batch * accumulate`` images in each process; ``rate`` rises over ``warmup`` steps, then falls to 0 by a cosine.
    Noise levels are logit-normal with ``noise_mean`` and ``noise_std``, shifted as the model's scheduler does. Of the masks
    of at least ``least_area`` of the image the ``most_masks`` largest are kept.
    """

    data: Annotated[
        str,
        Setting(
            "scenes (built in), coco:ROOT (train2017, stuffthingmaps), sa1b:ROOT, or folder:ROOT.", INPUT, is_place=True
        ),
    ] = "scenes"
    layer: int | None = None
    matching: Annotated[
        Matching,
        Setting(
            "token: each class name's map with that class's mask; head: maps of all tokens and heads with the masks, by "
            "the Hungarian method."
        ),
    ] = "token"
    rank: Annotated[int, Setting("Rank of the LoRA.", low=1)] = 16
    steps: Annotated[int, Setting("Training steps.", low=1)] = 400
    batch: Annotated[int, BATCH] = 32
    accumulate: Annotated[int, Setting("Forward passes of one training step.", low=1)] = 1
    rate: Annotated[float, Setting("Largest learning rate.", above=0, flags=("--lr",))] = 1e-3
    warmup: Annotated[int, Setting("Training steps of warm-up.", low=0)] = 50
    weight_decay: Annotated[float, Setting("Weight decay of AdamW.", low=0)] = 1e-4
    gradient_clip: Annotated[float, Setting("Largest L2 norm of all gradients together.", above=0)] = 1.0
    mask_weight: Annotated[float, Setting("Weight of the mask loss; 0 is a plain LoRA.", low=0)] = 4.0
    focal_weight: Annotated[float, Setting("Weight of the focal loss in the mask loss.", low=0)] = 0.1
    dice_weight: Annotated[float, Setting("Weight of the dice loss in the mask loss.", low=0)] = 0.2
    match_focal: Annotated[float, Setting("Weight of focal in the matching's cost (matching head).", low=0)] = 0.02
    match_dice: Annotated[float, Setting("Weight of dice in the matching's cost (matching head).", low=0)] = 1.0
    read: Annotated[
        Reading, Setting("The mask loss reads scores before the softmax, as released, or probabilities.")
    ] = "scores"
    released_focal: Annotated[
        bool, Setting("The released code's focal loss, which takes logits for probabilities.")
    ] = False
    mask_head: Annotated[bool, Setting("The released code's small convolution on the maps, while training.")] = False
    noise_mean: Annotated[float, Setting("Mean of the logit-normal noise levels.")] = -1.0
    noise_std: Annotated[float, Setting("Standard deviation of the logit-normal noise levels.", above=0)] = 1.0
    most_masks: Annotated[int, Setting("Largest number of masks of an image.", low=1)] = 32
    least_area: Annotated[float, Setting("Smallest share of the image that a mask covers.", low=0, high=1)] = 0.005
    sentences: Annotated[int | None, Setting("Sentences of a caption that are kept.", low=1)] = None
    crop: Annotated[
        Literal["stretch", "center"], Setting("The whole image stretched to the model's square, or its middle square.")
    ] = "center"
    max_sequence_length: Annotated[int | None, MAX_SEQUENCE_LENGTH] = None
    ema: Annotated[
        float | None,
        Setting(
            "Decay of averaged weights, such as 0.99, which are then saved in place of the last ones.", above=0, below=1
        ),
    ] = None
    gradient_checkpointing: Annotated[bool, Setting("Less memory, about a third more time.")] = False
    mixed_precision: Annotated[
        MixedPrecision, Setting("Number format of frozen weights and arithmetic; the LoRA stays fp32.")
    ] = "no"
    save_every: Annotated[int, Setting("Training steps between checkpoints.", OUTPUT, low=1)] = 100
    seed: Annotated[int, SEED] = 0


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
    "sa1b": replace(_PAPER, data="sa1b", matching="head", steps=1000, sentences=2),
}
"""Settings by kind of data: for the embedded model's scenes what it learns from in minutes, for COCO and SA-1B (and, in
their manner, folders of one's own) the paper's.

Scenes are trained with less noise and a larger mask weight than the paper's, which move the embedded model's masks little,
and without masks of less than 0.005 of the image, where the paper names no smallest one.
The paper's learning rate is 1e-4 times 0.1; the released SA-1B run had 8 images a step, the paper says 16.
"""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Settings):
    """A model before and after MAGNET (Seg4Diff, Tables 1 to 3, Fig. 12, 13).

    Masks are compared on ``limit`` images of ``dataset``, masks and attention at ``timesteps``; images are generated for
    ``prompts`` and ``seeds``, the same before and after.
    """

    prompts: tuple[str, ...] = ()
    layer: int | None = None
    dataset: Annotated[str, Setting("Data set of the masks, as for `mmdit-probe evaluate`.", INPUT)] = "scenes"
    limit: Annotated[int | None, Setting("Only the first images.", INPUT, low=1, default="all; 300 of scenes")] = None
    timesteps: Annotated[Timesteps | None, timesteps_setting()] = None
    seeds: Annotated[tuple[int, ...], SEEDS] = (0, 1)
    batch: Annotated[int, BATCH] = 8
    generation: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.chosen_timesteps

    @property
    def chosen_timesteps(self) -> tuple[int, ...]:
        """The timesteps that are read, each in 1 to ``generation.steps``."""
        return chosen_timesteps(self.timesteps, (8,), self.generation.steps)
