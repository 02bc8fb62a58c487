"""How well a score tells two kinds apart: the area under the ROC curve, with an interval over prompts or images."""

from __future__ import annotations

import numpy as np

from .bootstrap import bootstrap_weights
from .inference import Interval, drawn_interval

DRAWS = 2000


def area_under_curve(scores: np.ndarray, positive: np.ndarray, units: np.ndarray) -> Interval:
    """Probability that a positive item has the higher score than a negative one, ties counting half, in [0, 1].

    0.5 is chance. The interval is by bootstrap over the units (prompts or images), whose items are drawn together; NaN for
    fewer than 5 units. The area is NaN if all items are of one kind. Draws that hold one kind alone are left out.

    Args:
        scores: (items,).
        positive: (items,) bool.
        units: (items,) which unit each item belongs to.

    >>> import numpy as np
    >>> area_under_curve(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]), np.array(["a", "a", "b"])).mean
    1.0
    """
    positive = positive.astype(bool)
    names, number = np.unique(units, return_inverse=True)
    if positive.all() or not positive.any():
        return Interval(float("nan"), float("nan"), float("nan"), len(names))
    above = np.sign(scores[positive][:, None] - scores[~positive][None]) / 2 + 0.5
    weights = bootstrap_weights(len(names), DRAWS)
    of_positive, of_negative = weights[:, number[positive]], weights[:, number[~positive]]
    pairs = of_positive.sum(1) * of_negative.sum(1)
    won = ((of_positive @ above) * of_negative).sum(1)
    drawn = won[pairs > 0] / pairs[pairs > 0]
    return drawn_interval(float(above.mean()), drawn, len(names))
