"""The baselines' settings: the defaults are those of their released code. Imports no torch.

Diffusion timesteps are of 1000, 0 the clean end. U-Net resolutions are given by how often the latents are halved: of
64 x 64 latents, level 0 has 64 x 64 tokens and level 3 has 8 x 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

CROSS_HEADS = (0, 30, 100)
"""Heads of iSeg's cross-attention layers in Stable Diffusion 2.1, by how often the latents are halved."""
VOC_HEADS = (
    (),
    (22, 5, 21, 13, 8, 27, 28, 6, 25),
    (76, 1, 43, 17, 81, 6, 44, 27, 2, 8, 22, 20, 60, 78, 12, 83, 94, 47, 88, 96, 3, 33, 46, 52, 77, 93, 51, 58, 0, 13, 14,
     19, 34, 41, 59, 87, 16, 24, 28, 30, 32),
)  # fmt: skip
"""Those that iSeg reads on VOC, numbered through all layers of a resolution."""


@dataclass(frozen=True)
class DiffSegmenterConfig:
    """DiffSegmenter on Stable Diffusion 1.5.

    ``word_weight`` is what two plus signs behind a word mean; ``level_weights`` weigh the cross-attention of each
    resolution; ``background`` is the constant score of a class called background.
    """

    side: int = 512
    timestep: int = 100
    prompt: str = "a photograph of {}"
    word_weight: float = 1.21
    level_weights: tuple[float, ...] = (0.1, 0.1, 0.5, 0.3)
    refine_steps: int = 1
    background: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class ISegConfig:
    """iSeg on Stable Diffusion 2.1 base; the defaults are those for VOC.

    ``word_scale`` multiplies the class words' embeddings. ``cross_layers`` (stage, block in it, attention in that) are read
    where a resolution has them all, and of these ``cross_heads`` by resolution, None for all. ``clusters`` is about how many
    clusters of pixels there are, 0 for none. ``heads`` and ``self_attention`` (the number of the block in the last up stage that
    attends) choose the self-attention; ``entropy`` is the strength of its sharpening. Background is (1 - the highest
    class)^2, or the constant ``background`` where one is given.
    """

    side: int = 512
    timestep: int = 100
    prompt: str = "a photograph of {} and other object and background"
    word_scale: float = 1.6
    level_weights: tuple[float, ...] = (0.0, 0.3, 0.7)
    cross_layers: tuple[tuple[str, int, int], ...] = (("down", 1, 1), ("up", 2, 0), ("up", 2, 1))
    cross_heads: tuple[tuple[int, ...], ...] | None = VOC_HEADS
    clusters: int = 32
    cluster_iterations: int = 20
    heads: tuple[int, ...] | None = (1, 2)
    self_attention: int = 1
    entropy: float = 0.015
    iterations: int = 8
    background: float | None = None
    seed: int = 1101


@dataclass(frozen=True)
class ProxyCLIPConfig:
    """ProxyCLIP on CLIP ViT-B/16 with DINO ViT-B/8.

    ``side`` px are the image's shorter side, cut into windows of ``crop`` px every ``stride`` px. ``scale`` multiplies
    the cosines of text and patches before the softmax; ``background`` is the least probability that counts.
    """

    side: int = 336
    crop: int = 336
    stride: int = 112
    shift: float = 1.2
    sharpness: float = 3.0
    scale: float = 40.0
    background: float = 0.2


@dataclass(frozen=True)
class CorrCLIPConfig:
    """CorrCLIP on MetaCLIP B/16 with DINO ViT-B/8 and masks of SAM 2.

    Masks come from ``points`` x ``points`` prompts and need the two qualities ``iou`` and ``stability``; those closer
    than ``eps`` (cosine distance) are merged. ``sharpness`` multiplies similarities before the softmax. ``spatial_layers``
    layers below the last but one make the spatial branch; None is 5 of 12, 12 of 24, 28 of 32, otherwise all but 4.
    """

    side: int = 336
    crop: int = 336
    stride: int = 112
    points: int = 8
    iou: float = 0.4
    stability: float = 0.4
    eps: float = 0.2
    min_samples: int = 1
    sharpness: float = 4.0
    spatial_layers: int | None = None
    spatial_weight: float = 1.0
    semantic_weight: float = 0.5
    vote: bool = True
    scale: float = 40.0
    background: float = 0.2


@dataclass(frozen=True)
class DiffSegConfig:
    """DiffSeg on Stable Diffusion 1.4; ``threshold`` (symmetric KL, nats) is the one for COCO-Stuff.

    ``joint_threshold`` is the one for a layer of an MM-DiT, tuned on tiny-sd3 (`analyses/baselines_on_mmdit.py`).
    """

    side: int = 512
    timestep: int = 300
    threshold: float = 1.1
    joint_threshold: float = 0.3
    iterations: int = 3
    anchors: int = 16


@dataclass(frozen=True)
class DiffCutConfig:
    """DiffCut on SSD-1B: cuts below ``tau`` on a grid of ``grid`` points a side, assigned on one of ``finer`` points."""

    side: int = 1024
    timestep: int = 50
    tau: float = 0.5
    power: float = 10.0
    thresholds: int = 100
    grid: int = 32
    finer: int = 128
    seed: int = 0


@dataclass(frozen=True)
class RefineConfig:
    """A baseline's refinement on the maps of an MM-DiT layer.

    ``steps`` multiplications by I2I are DiffSegmenter's refinement (1 is faithful); ``entropy``, ``iterations`` and
    ``word_scale`` are iSeg's; ``regions`` is how many masks k-means on colors makes for CorrCLIP's vote where no SAM
    is given.
    """

    steps: int = 1
    entropy: float = 0.015
    iterations: int = 8
    word_scale: float = 1.6
    regions: int = 12


def iseg_for(dataset: str) -> tuple[float, int]:
    """iSeg's entropy strength and iterations for a data set: VOC's where the released code has none of its own."""
    if dataset.startswith("coco"):
        return 0.2, 10
    return (0.002, 5) if dataset == "context" else (0.015, 8)


def clip_for(dataset: str) -> dict[str, Any]:
    """ProxyCLIP's and CorrCLIP's settings that are not the same for all data sets; both released codes agree on them."""
    if dataset.startswith("cityscapes"):
        return {"side": 448, "crop": 224}
    if dataset == "ade20k":
        return {"side": 448}
    least = {"coco-object-background": 0.25, "context": 0.15}
    return {"background": least[dataset]} if dataset in least else {}


def for_dataset(config: Any, dataset: str) -> Any:
    """A system's settings as its released code changes them for a data set."""
    if isinstance(config, ISegConfig):
        entropy, iterations = iseg_for(dataset)
        background = 0.45 if dataset.startswith("coco") else None
        heads = config.cross_heads if dataset.startswith("voc") or not dataset else None
        return replace(config, entropy=entropy, iterations=iterations, background=background, cross_heads=heads)
    if isinstance(config, DiffSegmenterConfig) and dataset.startswith("coco"):
        return replace(config, prompt="a photography of {}")
    if isinstance(config, ProxyCLIPConfig | CorrCLIPConfig):
        return replace(config, **clip_for(dataset))
    if isinstance(config, DiffSegConfig) and dataset.startswith("cityscapes"):
        return replace(config, threshold=0.9)
    if isinstance(config, RefineConfig):
        entropy, iterations = iseg_for(dataset)
        return replace(config, entropy=entropy, iterations=iterations)
    return config
