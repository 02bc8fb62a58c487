"""I2T maps other than the plain ones: scores before the softmax, and maps refined by the image's own attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from ..attention import Heads, JointAttention
from ..layout import TokenLayout
from ..readouts import Field, Fields, I2TMaps, Readout

Normalize = Literal["probs", "probs-minmax", "scores", "scores-minmax"]
"""Table 5: after or before the softmax, and whether each class map is brought to [0, 1] by its own range."""
Refine = Literal["none", "i2i"]


class I2TScores(Readout):
    """``i2t`` as `I2TMaps`, but scores before the softmax (Seg4Diff, Table 5)."""

    def __init__(self, heads: Heads = "mean") -> None:
        self.heads = heads

    def measure(self, attention: JointAttention) -> Fields:
        scores = attention.scores(attention.layout.image_queries, attention.layout.text_keys)
        return _field(attention, scores.mean(1) if self.heads == "mean" else scores, self.heads)

    def kept(self, layout: TokenLayout, heads: int) -> int:
        return I2TMaps(self.heads).kept(layout, heads)


class RefinedI2T(Readout):
    """``i2t`` refined once: each grid point takes the mean of all points' maps, weighted by its I2I attention.

    The weights are the I2I probabilities, mean over heads, scaled to sum to 1 for each query. Exact; computed
    a few rows at a time, so that the whole I2I block is never in memory.
    """

    def measure(self, attention: JointAttention) -> Fields:
        maps = attention.i2t("mean")
        rows = [_i2i(attention, chunk) @ maps for chunk in _chunks(attention.layout.image_queries, attention.row_chunk)]
        return _field(attention, torch.cat(rows, 1), "mean")

    def kept(self, layout: TokenLayout, heads: int) -> int:
        return I2TMaps().kept(layout, heads)


def _chunks(rows: slice, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _i2i(attention: JointAttention, rows: slice) -> Tensor:
    """(batch, rows, image): I2I of some image queries, mean over heads, rows summing to 1."""
    weights = attention.probs(rows, attention.layout.image_keys).mean(1)
    return weights / weights.sum(-1, keepdim=True)


def _field(attention: JointAttention, maps: Tensor, heads: Heads) -> Fields:
    leading = ("batch",) if heads == "mean" else ("batch", "head")
    layout = attention.layout
    return {"i2t": Field((*leading, *layout.grid_dims, "token"), maps.unflatten(-2, layout.grid))}


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
