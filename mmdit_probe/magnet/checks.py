"""Validates training settings and summarizes the losses."""

from __future__ import annotations

import math

import pandas as pd

from ..configs import MagnetConfig
from .examples import TrainingSet
from .objective import MATCHINGS


def check(config: MagnetConfig, data: TrainingSet) -> None:
    """`ValueError` if a setting is out of range, or contradicts the training set."""
    for name, known in (
        ("matching", MATCHINGS),
        ("read", ("scores", "probs")),
        ("crop", ("center", "stretch")),
        ("mixed_precision", ("no", "fp16", "bf16")),
    ):
        if getattr(config, name) not in known:
            raise ValueError(f"magnet: {name} must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    for name in ("rank", "steps", "batch", "accumulate", "most_masks", "save_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"magnet: {name} must be at least 1, got {getattr(config, name)}")
    for name in ("rate", "gradient_clip", "noise_std"):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"magnet: {name} must be a number above 0, got {getattr(config, name)}")
    for name in ("mask_weight", "focal_weight", "dice_weight", "match_focal", "match_dice", "weight_decay", "warmup"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"magnet: {name} must be a number of 0 or more, got {getattr(config, name)}")
    if config.ema is not None and not 0 < config.ema < 1:
        raise ValueError(f"magnet: ema must be between 0 and 1, got {config.ema}")
    if config.matching == "token" and not data.named:
        raise ValueError(
            f"magnet: token matching needs the masks' class names and {data.name} has none; use --matching head"
        )
    if config.matching == "head" and not data.captioned:
        raise ValueError(
            f"magnet: head matching needs captions and {data.name} has none; give --captions FILE, or use --matching token"
        )


def summary(table: pd.DataFrame, config: MagnetConfig) -> list[str]:
    """Lines that compare the mean losses of the first tenth of the steps with those of the last."""
    tenth = max(1, len(table) // 10)
    first, last = table.head(tenth).mean(), table.tail(tenth).mean()
    moved = ", ".join(f"{name} {first[name]:.4f} -> {last[name]:.4f}" for name in ("flow", "focal", "dice"))
    images = len(table) * config.batch * config.accumulate
    return [
        f"layer {config.layer}, {config.matching} matching, {len(table)} steps, {images} images in each process",
        f"mean losses of the first {tenth} steps -> of the last {tenth}: {moved}",
    ]
