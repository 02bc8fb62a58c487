"""How well the label-free signs foretell which layer has the best masks, where masks are known."""

from __future__ import annotations

from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from .datasets.scenes import scenes
from .expert import SIGNS
from .pipelines import model_defaults
from .tiny.grounding import MEAN_OF_LAYERS, score_layers


def with_masks(pipe: Any, table: pd.DataFrame, count: int, timestep: int) -> pd.DataFrame:
    """The table with each layer's mIoU on ``count`` test scenes."""
    positions = model_defaults(pipe).max_sequence_length
    masks, _ = score_layers(pipe, list(scenes("test", count)), timestep, seed=0, max_sequence_length=positions)
    single = masks[masks["layer"] != MEAN_OF_LAYERS].astype({"layer": int})
    return table.merge(single[["layer", "miou"]], on="layer")


def agreement(table: pd.DataFrame) -> list[str]:
    """Spearman's rank correlation of each sign, and of their mean rank, with the masks' mIoU."""
    best = table.loc[table["miou"].idxmax()]
    lines = [f"Best masks: layer {best['layer']:.0f}, {best['miou']:.1%} mIoU; mean rank {best['mean_rank']:.2f}."]
    for sign, text in SIGNS.items():
        lines.append(f"Spearman of {text} with mIoU: {spearmanr(table[sign], table['miou']).statistic:+.2f}")
    lines.append(f"Spearman of the mean rank with mIoU: {-spearmanr(table['mean_rank'], table['miou']).statistic:+.2f}")
    return lines
