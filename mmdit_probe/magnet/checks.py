"""Checks that settings and training set go together, and summarizes the losses."""

from __future__ import annotations

import pandas as pd

from ..configs import MagnetConfig
from .examples import TrainingSet


def check(config: MagnetConfig, data: TrainingSet) -> None:
    """`ValueError` if the settings contradict the training set."""
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
