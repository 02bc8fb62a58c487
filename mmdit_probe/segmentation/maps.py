"""I2T maps other than the plain ones: scores before the softmax, and maps refined by the image's own attention."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..attention.reductions import Heads
from ..readouts.base import Readout
from ..readouts.maps import I2TMaps, I2TScores, RefinedI2T

Normalize = Literal["probs", "probs-minmax", "scores", "scores-minmax"]
"""Table 5: after or before the softmax, and whether each class map is brought to [0, 1] by its own range."""
Refine = Literal["none", "i2i"]


def make_readout(normalize: str, heads: Heads, refine: str) -> Readout:
    """The readout of ``i2t`` maps that the settings ask for."""
    for name, value, known in (("normalize", normalize, Normalize), ("refine", refine, Refine)):
        if value not in get_args(known):
            raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if refine == "i2i":
        if heads != "mean" or not normalize.startswith("probs"):
            raise ValueError(
                "refine i2i works on probabilities, mean over heads; leave --heads and --normalize as they are"
            )
        return RefinedI2T()
    return I2TMaps(heads) if normalize.startswith("probs") else I2TScores(heads)


def scaled(maps: Tensor, normalize: str) -> Tensor:
    """Class maps (..., rows, cols), each brought to [0, 1] by its own range if ``normalize`` says so."""
    if not normalize.endswith("minmax"):
        return maps
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
