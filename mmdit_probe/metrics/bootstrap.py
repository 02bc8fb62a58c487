"""Bootstrap intervals over prompts and seeds."""

from __future__ import annotations

import numpy as np


def bootstrap_mean(
    values: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and percentile interval of ``values`` (prompts, seeds), at least one of them a number.

    Prompts are drawn with replacement, and for each the seeds: images of one prompt are not independent. NaN is left out.
    """
    values = np.atleast_2d(values)
    rng = np.random.default_rng(seed)
    prompts, seeds = values.shape
    rows = rng.integers(prompts, size=(draws, prompts, 1))
    cols = rng.integers(seeds, size=(draws, prompts, seeds))
    drawn = values[rows, cols].reshape(draws, -1)
    counts = (~np.isnan(drawn)).sum(1)
    means = np.nansum(drawn, axis=1)[counts > 0] / counts[counts > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.nanmean(values)), float(low), float(high)


def bootstrap_weights(count: int, draws: int, seed: int = 0) -> np.ndarray:
    """(draws, count): how often each of ``count`` items is drawn, with replacement; each row sums to ``count``."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
