"""Scores of images that were generated from the same seeds with and without a change, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..metrics.bootstrap import bootstrap_mean
from ..metrics.image_metrics import Score
from .image_grid import PLAIN, ImageGrid

AGAINST_PLAIN = ("clip_i", "dino")
"""Scores that compare with the plain image: of the plain image itself they are 1."""


def measure_images(grid: ImageGrid, scores: Mapping[str, Score]) -> pd.DataFrame:
    """One row an image: variant, prompt, seed and each score."""
    plain = grid.images[PLAIN]
    rows = []
    for name, images in grid.images.items():
        for column, seed in enumerate(grid.seeds):
            found = {s: score(images[:, column], plain[:, column], grid.prompts) for s, score in scores.items()}
            for number, prompt in enumerate(grid.prompts):
                values = {s: float(v[number]) for s, v in found.items()}
                rows.append({"variant": name, "number": number, "prompt": prompt, "seed": seed, **values})
    return pd.DataFrame(rows)


def drop_table(scored: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """One row per variant and score: mean, and the drop from plain with its 95% bootstrap interval.

    The drop is paired by prompt and seed; for scores against the plain image (CLIP-I, DINO) it is 1 - score.
    """
    rows = []
    for variant in scored["variant"].unique():
        for name in names:
            values, drop = _grid(scored, variant, name), _drop(scored, variant, name)
            mean, low, high = bootstrap_mean(drop)
            rows.append(
                {"variant": variant, "score": name, "mean": np.nanmean(values), "drop": mean, "low": low, "high": high}
            )
    return pd.DataFrame(rows)


def _grid(scored: pd.DataFrame, variant: str, name: str) -> np.ndarray:
    """(prompts, seeds)."""
    chosen = scored[scored["variant"] == variant]
    return chosen.pivot(index="number", columns="seed", values=name).to_numpy()


def _drop(scored: pd.DataFrame, variant: str, name: str) -> np.ndarray:
    values = _grid(scored, variant, name)
    return 1 - values if name in AGAINST_PLAIN else _grid(scored, PLAIN, name) - values
