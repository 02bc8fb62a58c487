"""What the numbers of a comparison support: intervals over prompts or images, and whether a leader leads by more than chance.

The unit is the prompt or the image; seeds of one prompt are averaged first, since they are not independent. See
docs/maths.md, "How sure the numbers are".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from .bootstrap import bootstrap_mean, bounds, unit_means

FEWEST = 5
"""Units below which no interval and no verdict is given."""
LEVEL = 0.05
FLIPS = 999
Over = Literal["rest", "zero"]
_EXACT = 10
"""Up to so many units all sign flips are taken, not `FLIPS` random ones."""


class Interval(NamedTuple):
    """A mean (or another estimate) of ``n`` units with its 95% interval; the bounds are NaN for fewer than `FEWEST` units."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """False also if there is no interval."""
        return self.low > 0 or self.high < 0

    def __neg__(self) -> Interval:
        return Interval(0.0 - self.mean, 0.0 - self.high, 0.0 - self.low, self.n)


def drawn_interval(estimate: float, drawn: np.ndarray, n: int) -> Interval:
    """The 95% interval of an estimate from ``n`` units, from its bootstrap draws; without bounds below `FEWEST` units."""
    return Interval(estimate, *(bounds(drawn, n) if n >= FEWEST else (float("nan"), float("nan"))), n)


def mean_interval(values: np.ndarray) -> Interval:
    """The mean of ``values`` (units, seeds) or (units,) over units, with its 95% bootstrap interval; NaN is left out.

    >>> import numpy as np
    >>> mean, low, high, n = mean_interval(np.array([[0.1, 0.2], [0.5, 0.3], [0.4, 0.6], [0.2, 0.4], [0.3, 0.3]]))
    >>> round(mean, 2), low < mean < high, n
    (0.33, True, 5)
    >>> mean_interval(np.array([0.25, 0.75]))
    Interval(mean=0.5, low=nan, high=nan, n=2)
    """
    means = unit_means(values) if values.ndim > 1 else values
    means = means[~np.isnan(means)]
    if len(means) < FEWEST:
        mean = float(means.mean()) if len(means) else float("nan")
        return Interval(mean, float("nan"), float("nan"), len(means))
    return Interval(*bootstrap_mean(means[:, None]), len(means))


@lru_cache(maxsize=8)
def _signs(units: int) -> np.ndarray:
    """(flips, units) of +1 and -1, the first row without a flip: all patterns of few units, else random ones."""
    if units <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**units)[:, None] >> np.arange(units)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (FLIPS + 1, units))
        signs[0] = 1
    return signs.astype(float)


def picked_p(values: np.ndarray) -> np.ndarray:
    """(candidates,) p-values of "its mean over the units is above 0", each as if the largest had been picked.

    ``values`` (candidates, units) are paired by unit; units with NaN are left out. The signs of whole units are flipped
    together for all candidates, and each candidate's t statistic is compared with the largest of all candidates' under
    each flip (Westfall and Young 1993, single step; Romano and Wolf 2005). NaN for fewer than `FEWEST` units.
    """
    values = values[:, ~np.isnan(values).any(0)]
    units = values.shape[1]
    if units < FEWEST:
        return np.full(len(values), np.nan)
    norms = np.sqrt((values**2).sum(1, keepdims=True))
    scaled = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)  # t rises with the sum of these
    largest = (_signs(units) @ scaled.T).max(1)
    return (largest >= scaled.sum(1)[:, None] - 1e-9).mean(1)


def two_sided_picked_p(values: np.ndarray) -> np.ndarray:
    """`picked_p` of "its mean is not 0": each candidate counts with both signs."""
    return picked_p(np.concatenate([values, -values])).reshape(2, -1).min(0)


def outside_chance(p: float, units: int) -> bool:
    """Whether a p-value of `picked_p` is below 5%, with two standard errors of the random flips added; False for NaN."""
    error = 0.0 if units <= _EXACT else 2 * np.sqrt(p * (1 - p) / (FLIPS + 1))
    return bool(p + error <= LEVEL)


def drawn_p(estimates: np.ndarray, drawn: np.ndarray, n: int) -> np.ndarray:
    """`picked_p` of estimates (candidates,) that are no means of units, such as mIoU, by their draws (draws, candidates).

    Each studentized estimate is compared with the largest centered and studentized draw of all candidates. That the spreads
    are estimated from ``n`` units too is added to the draws, so that they spread like Student's t and not like normal ones.
    """
    if n < FEWEST:
        return np.full(len(estimates), np.nan)
    unsure = np.sqrt(np.random.default_rng(0).chisquare(n - 1, drawn.shape) / (n - 1))
    wider = np.sqrt(n / (n - 1))
    spread = wider * drawn.std(0)
    usable = spread > 1e-12
    safe = np.where(usable, spread, 1)
    largest = np.where(usable, wider * (drawn - drawn.mean(0)) / safe / unsure, -np.inf).max(1)
    p = (1 + (largest[:, None] >= np.where(usable, estimates / safe, 0)).sum(0)) / (1 + len(drawn))
    return np.where(usable, p, np.where(estimates > 0, 1 / (1 + len(drawn)), 1.0))


@dataclass(frozen=True)
class Lead:
    """The candidate with the largest value, and what its lead is worth.

    Attributes:
        tied: positions of the candidates with the largest value; several if they are equal.
        value: that value with its interval.
        over_rest: its lead over the mean of the other candidates, or over 0 if that is asked for or it is alone.
        outside: whether that lead is outside chance, the picking of the largest included; None for too few units.
        second: position of the next candidate, None if there is none.
        over_second: the lead over the next candidate with its interval, None if there is none.
    """

    tied: tuple[int, ...]
    value: Interval
    over_rest: float
    outside: bool | None
    second: int | None
    over_second: Interval | None

    @property
    def leader(self) -> int:
        """Position of the candidate with the largest value, the first if several have it."""
        return self.tied[0]

    @property
    def apart(self) -> bool:
        """Whether the leader is told from the next one too: the interval of the lead over it lies above 0."""
        return bool(self.outside) and self.over_second is not None and self.over_second.low > 0


def _order(means: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Positions by falling mean, and those whose mean is the largest to nine digits of the spread."""
    order = np.argsort(-means, kind="stable")
    scale = max(float(np.abs(means).max()), 1e-300)
    tied = tuple(int(place) for place in order if means[order[0]] - means[place] <= 1e-9 * scale)
    return order, tied


def best(values: np.ndarray, over: Over = "rest") -> Lead:
    """The leader of ``values`` (candidates, units, seeds), its lead and its chance; the picking is part of the test.

    ``over`` says what the verdict is about: the lead over the mean of the other candidates ("rest"), or over 0 ("zero").

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> drops = rng.normal(0, 0.01, (12, 20, 2))
    >>> best(drops).outside
    False
    >>> drops[7] += 0.05
    >>> lead = best(drops)
    >>> lead.leader, lead.outside, lead.apart
    (7, True, True)
    """
    units = unit_means(values)
    units = units[:, ~np.isnan(units).any(0)]
    n = units.shape[1]
    if not n:
        raise ValueError("no prompt or image has a number for every candidate: nothing can be compared")
    order, tied = _order(units.mean(1))
    first = order[0]
    value = mean_interval(units[first])
    lead = units if over == "zero" or len(order) == 1 else units - (units.sum(0) - units) / (len(units) - 1)
    outside = None
    if n >= FEWEST:
        alone = over == "zero" or len(tied) == 1
        outside = alone and outside_chance(float(picked_p(lead)[first]), n)
    if len(order) == 1:
        return Lead(tied, value, value.mean, outside, None, None)
    second = int(order[1])
    return Lead(tied, value, float(lead[first].mean()), outside, second, mean_interval(units[first] - units[second]))


def best_drawn(estimates: np.ndarray, drawn: np.ndarray, n: int) -> Lead:
    """`best` of estimates (candidates,) that are no means of units, such as mIoU, by their draws (draws, candidates)."""
    order, tied = _order(estimates)
    first = order[0]
    value = drawn_interval(float(estimates[first]), drawn[:, first], n)
    if len(order) == 1:
        return Lead(tied, value, value.mean, None, None, None)
    others, second = len(order) - 1, int(order[1])
    lead = estimates - (estimates.sum() - estimates) / others
    drawn_lead = drawn - (drawn.sum(1, keepdims=True) - drawn) / others
    outside = None
    if n >= FEWEST:
        p = float(drawn_p(lead, drawn_lead, n)[first])
        outside = len(tied) == 1 and bool(p + 2 * np.sqrt(p * (1 - p) / (1 + len(drawn))) <= LEVEL)
    gap = float(estimates[first] - estimates[second])
    over = drawn_interval(gap, drawn[:, first] - drawn[:, second], n)
    return Lead(tied, value, float(lead[first]), outside, second, over)
