"""Masks from attention, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SegmentConfig:
    """Open-vocabulary segmentation (Seg4Diff, section 4.2).

    ``timestep`` counts from the clean end, of 28. ``crop`` stretches the whole image to the model's square, as the
    released evaluation does, or takes the square in its center, as the paper says. ``refine`` is none, i2i, or a baseline's
    refinement (`baselines.joint`).
    """

    timestep: int = 8
    crop: str = "stretch"
    refine: str = "none"
    seed: int = 0
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class GroupConfig:
    """Regions without words (Seg4Diff, section 4.3); the defaults are what the released code does.

    ``threshold`` is a symmetric KL divergence in nats; ``variant`` is released or paper-text; ``min_max`` scales each grid
    point's values over the tokens before the merge (released only).
    """

    threshold: float = 0.1
    variant: str = "released"
    min_max: bool = True
    timestep: int = 8
    crop: str = "stretch"
    seed: int = 0
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class EvaluateConfig:
    """Masks against ground truth (Seg4Diff, Tables 1, 2, 5, Fig. 8, 15, 17).

    ``task`` is open-vocabulary or unsupervised; ``method`` is seg4diff or one of its baselines; ``layers`` None is all;
    ``heads`` is mean or each; ``timesteps`` count from the clean end, of 28; ``vocabulary`` offers the classes present in
    each image, as the paper does, or all of the data set's (full). ``normalize`` is probs, probs-minmax, scores or
    scores-minmax (Table 5). ``threshold`` is the unsupervised method's, ``variant`` and ``min_max`` Seg4Diff's merge's,
    ``trivial`` scores three trivial baselines beside it. ``batch`` images go through the model together; the numbers depend
    on it in the last digits only.
    """

    dataset: str = "scenes"
    task: str = "open-vocabulary"
    method: str = "seg4diff"
    layers: tuple[int, ...] | None = None
    heads: str = "mean"
    timesteps: tuple[int, ...] = (8,)
    vocabulary: str = "present"
    crop: str = "stretch"
    normalize: str = "probs"
    refine: str = "none"
    threshold: float = 0.1
    variant: str = "released"
    min_max: bool = True
    trivial: bool = False
    batch: int = 8
    seed: int = 0
    limit: int | None = None
    max_sequence_length: int | None = None
