"""Bootstrap intervals over prompts and seeds."""

from __future__ import annotations

import numpy as np


def bootstrap_mean(
    values: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``values`` (prompts, seeds) and the bounds of its bootstrap percentile interval.

    Prompts are drawn with replacement, then seeds within each drawn prompt, since images of one prompt are not
    independent. NaN is left out; at least one value must be a number.

    Args:
        values: (prompts, seeds).
        draws: number of bootstrap samples.
        level: probability that the interval covers, in (0, 1).
        seed: of the random draws.

    >>> import numpy as np
    >>> mean, low, high = bootstrap_mean(np.array([[0.1, 0.2], [0.5, 0.3], [0.4, 0.6]]))
    >>> round(mean, 3), low < mean < high
    (0.35, True)
    """
    values = np.atleast_2d(values)
    rng = np.random.default_rng(seed)
    prompts, seeds = values.shape
    drawn_prompts = rng.integers(prompts, size=(draws, prompts, 1))
    drawn_seeds = rng.integers(seeds, size=(draws, prompts, seeds))
    drawn = values[drawn_prompts, drawn_seeds].reshape(draws, -1)
    counts = (~np.isnan(drawn)).sum(1)
    means = np.nansum(drawn, axis=1)[counts > 0] / counts[counts > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.nanmean(values)), float(low), float(high)


def bootstrap_weights(count: int, draws: int, seed: int = 0) -> np.ndarray:
    """(draws, count) integers: how often each of ``count`` items is drawn with replacement; each row sums to ``count``."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
