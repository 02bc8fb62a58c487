"""Maps of I2T and T2I attention, and of the scores before the softmax."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..attention.reductions import Heads, I2TSum, T2ISum, i2t_maps
from .base import OverTextColumns, OverTextRows, Readout, Reduction
from .fields import Field, Fields, check_heads, leading_dims, token_maps


class _TokenMaps(Readout):
    """Maps of every text token, averaged over heads or of each head."""

    def __init__(self, heads: Heads = "mean") -> None:
        check_heads(type(self).__name__, heads)
        self.heads: Heads = heads

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text * (1 if self.heads == "mean" else heads)

    def field(self, maps: Tensor, layout: TokenLayout, long_name: str) -> Field:
        """Maps (batch, [head,] image, text) as a field."""
        over = "" if self.heads == "all" else ", mean over heads"
        return token_maps(maps, layout, leading_dims(self.heads), long_name + over)


class I2TMaps(_TokenMaps):
    """``i2t`` (batch, [head,] row, col, token): probability with which each image query attends to each text token.

    In [0, 1], of the joint softmax over image and text (Seg4Diff, section 4.1). ``heads`` is "mean" (average over
    heads) or "all" (a map for each).

    >>> from mmdit_probe import I2TMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [I2TMaps()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> maps = probe.dataset("conditional")["i2t"].isel(call=0, batch=0, layer=0)
    >>> maps.dims
    ('row', 'col', 'token')
    >>> maps["token_text"].values[1:6].tolist()
    ['a', 'red', 'circle', 'on', 'grass']
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total = I2TSum(attention, self.heads)
        name = "probability with which the image query attends to the text token"
        return OverTextColumns(total.add, lambda: {"i2t": self.field(total.maps, attention.layout, name)})


class T2IMaps(_TokenMaps):
    """``t2i`` (batch, [head,] row, col, token): probability with which each text token attends to each image position.

    In [0, 1], of the joint softmax over image and text; NaN if text does not attend in this model. ``heads`` as in
    `I2TMaps`.

    >>> from mmdit_probe import Probe, T2IMaps, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [T2IMaps(heads="all")], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> probe.dataset("conditional")["t2i"].isel(call=0, batch=0, layer=0).dims
    ('head', 'row', 'col', 'token')
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total = T2ISum(attention, self.heads)
        name = "probability with which the text token attends to the image position"

        def result() -> Fields:
            return {"t2i": self.field(total.maps.transpose(-1, -2), attention.layout, name)}

        return OverTextRows(total.add, result)


class I2TScores(_TokenMaps):
    """``i2t`` as in `I2TMaps`, but the scores before the softmax, which can be any number (Seg4Diff, Table 5)."""

    def measure(self, attention: JointAttention) -> Fields:
        scores = attention.scores(attention.layout.image_queries, attention.layout.text_keys)
        maps = scores.mean(1) if self.heads == "mean" else scores
        name = "score of the image query on the text token before the softmax"
        return {"i2t": self.field(maps, attention.layout, name)}


class RefinedI2T(Readout):
    """``i2t`` refined once: each image query takes the mean of all queries' maps, weighted by its I2I attention.

    The weights are the I2I probabilities, mean over heads, scaled to sum to 1 for each query. Exact; computed a few
    queries at a time, so that the whole I2I block is never in memory.
    """

    def measure(self, attention: JointAttention) -> Fields:
        maps, queries = i2t_maps(attention), attention.layout.image_queries
        refined = [_i2i(attention, chunk) @ maps for chunk in _chunks(queries, attention.row_chunk)]
        name = "probability of the text token, averaged over image queries by I2I attention, mean over heads"
        return {"i2t": token_maps(torch.cat(refined, 1), attention.layout, leading_dims("mean"), name)}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text


def _chunks(rows: slice, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _i2i(attention: JointAttention, rows: slice) -> Float[Tensor, "batch rows image"]:
    """I2I of some image queries, mean over heads, scaled to sum to 1 for each query."""
    weights = attention.probs(rows, attention.layout.image_keys).mean(1)
    return weights / weights.sum(-1, keepdim=True)
