"""Which I2T maps are read: probabilities or scores before the softmax, plain or refined by the image's own attention."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..attention.reductions import Heads
from ..configs.segmentation import Normalize
from ..readouts.base import Readout
from ..readouts.maps import I2TMaps, I2TScores, RefinedI2T
from ..utils.choices import check_choice
from ..utils.scaling import min_max

Refine = Literal["none", "i2i"]


def make_readout(normalize: str, heads: Heads, refine: str) -> Readout:
    """The readout whose ``i2t`` maps the settings ask for; `ValueError` if they contradict each other."""
    check_choice("normalize", normalize, Normalize)
    check_choice("refine", refine, Refine)
    if refine == "i2i":
        if heads != "mean" or not normalize.startswith("probs"):
            raise ValueError(
                "refine i2i works on the mean over heads of probabilities; leave heads and normalize at their defaults"
            )
        return RefinedI2T()
    return I2TMaps(heads) if normalize.startswith("probs") else I2TScores(heads)


def scaled(maps: Tensor, normalize: str) -> Tensor:
    """Class maps (..., rows, cols), each scaled to [0, 1] by its own range if ``normalize`` ends with minmax."""
    return min_max(maps, (-2, -1)) if normalize.endswith("minmax") else maps
