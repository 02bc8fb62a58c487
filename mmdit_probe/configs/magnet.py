"""MAGNET: what it is trained with, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .generation import GenerationConfig


@dataclass(frozen=True)
class MagnetConfig:
    """MAGNET: a LoRA that is trained with a mask loss on one layer's I2T maps (Seg4Diff, section 5).

    The loss is ``flow matching + mask_weight (focal_weight focal + dice_weight dice)``. ``layer`` None is the expert layer.
    ``matching`` is token, which pairs each class name's map with that class's mask, or head, which pairs the maps of every
    text position and head with the masks by the Hungarian method on ``match_focal focal + match_dice dice``.

    One step takes ``batch * accumulate`` images in each process. ``rate`` rises over ``warmup`` steps, then falls to 0
    by a cosine; ``gradient_clip`` is the largest L2 norm of all gradients together. Noise levels are logit-normal with
    ``noise_mean`` and ``noise_std``, shifted as the model's scheduler does. ``read`` says what the mask loss reads: scores
    before the softmax, as released, or probs. ``released_focal`` takes the released code's focal loss, ``mask_head`` its small
    convolution on top of the maps (while training only).

    Masks of less than ``least_area`` of the image are left out, of the others the ``most_masks`` largest kept;
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
    "sa1b": replace(_PAPER, data="sa1b", matching="head", steps=1000, sentences=2),
}
"""Settings by kind of data: for the embedded model's scenes what it learns from in minutes, for COCO and SA-1B (and, in
their manner, folders of one's own) the paper's.

Scenes are trained with less noise and a larger mask weight than the paper's, which move the embedded model's masks little,
and without masks of less than 0.005 of the image, where the paper names no smallest one.
The paper's learning rate is 1e-4 times 0.1; the released SA-1B run had 8 images a step, the paper says 16.
"""


@dataclass(frozen=True)
class CompareConfig:
    """A model before and after MAGNET (Seg4Diff, Tables 1 to 3, Fig. 12, 13).

    Masks are compared on ``limit`` images of ``dataset`` at ``timesteps`` counted from the clean end; images are
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
