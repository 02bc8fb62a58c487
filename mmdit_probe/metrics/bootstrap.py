"""The bootstrap: drawing prompts or images with replacement, and the interval that the draws give."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import ndtr, stdtrit

DRAWS = 5000


@lru_cache(maxsize=8)
def bootstrap_weights(count: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, count) numbers, read-only: how often each of ``count`` units is drawn with replacement; rows sum to ``count``."""
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
    weights.flags.writeable = False
    return weights


def bounds(drawn: np.ndarray, count: int, level: float = 0.95) -> tuple[float, float]:
    """The expanded percentile interval (Hesterberg 2015) from bootstrap draws of an estimate that ``count`` units give.

    The percentiles lie so far out that for a mean of normal values the interval is as wide as Student's; the plain percentile
    interval is too narrow for few units.
    """
    if count < 2:
        return float(drawn.min()), float(drawn.max())
    tail = float(ndtr(stdtrit(count - 1, (1 - level) / 2) * np.sqrt(count / (count - 1))))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    size = float(np.abs(drawn).max())
    return without_rounding(float(low), size), without_rounding(float(high), size)


def without_rounding(value: float, size: float) -> float:
    """``value``, or 0 where it is what rounding leaves of a sum of numbers of this ``size``: a verdict must not rest on it.

    >>> without_rounding(0.1 + 0.2 - 0.3, size=0.3), without_rounding(1e-9, size=0.3)
    (0.0, 1e-09)
    """
    return 0.0 if abs(value) < 1e-12 * size else value


def unit_means(values: np.ndarray) -> np.ndarray:
    """(..., units): the mean over the seeds of each unit of ``values`` (..., units, seeds), without NaN; NaN if all are."""
    known = ~np.isnan(values)
    counts = known.sum(-1)
    return np.divide(np.where(known, values, 0).sum(-1), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def bootstrap_mean(
    values: np.ndarray, *, draws: int = DRAWS, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``values`` (units, seeds) over units, and the bounds of its bootstrap interval.

    Units (prompts or images) are drawn with replacement; the seeds of a unit are averaged first, since they are not
    independent. NaN is left out; at least one value must be a number. For results, take `inference.mean_interval`, which
    gives no interval for too few units.

    Args:
        values: (units, seeds).
        draws: number of bootstrap samples.
        level: probability that the interval covers, in (0, 1).
        seed: of the random draws.

    >>> import numpy as np
    >>> mean, low, high = bootstrap_mean(np.array([[0.1, 0.2], [0.5, 0.3], [0.4, 0.6]]))
    >>> round(mean, 3), low < mean < high
    (0.35, True)
    """
    means = unit_means(np.atleast_2d(values))
    means = means[~np.isnan(means)]
    if means.min() == means.max():  # exactly, where sums would be off in the last digit
        return float(means[0]), float(means[0]), float(means[0])
    low, high = bounds(bootstrap_weights(len(means), draws, seed) @ means / len(means), len(means), level)
    return without_rounding(float(means.mean()), float(np.abs(means).max())), low, high
