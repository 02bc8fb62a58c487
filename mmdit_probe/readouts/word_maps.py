"""WordMaps: where chosen words are attended to, without keeping the maps of all other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import Region, TokenLayout
from ..attention.reductions import Heads, MapSum
from ..configs.single_image import Direction
from .base import OverTextColumns, OverTextRows, Readout, Reduction
from .fields import Field, Fields, check_heads, leading_dims

_MEANINGS = {
    "i2t": "probability with which the image query attends to the word's tokens",
    "t2i": "probability with which the word's tokens attend to the image position",
}


class WordMaps(Readout):
    """``word_map`` (batch, [head,] word, row, col): attention probabilities of a word, mean over its tokens.

    In [0, 1], of the joint softmax over image and text; 0 for positions that a shorter negative prompt does not have.

    Args:
        spans: the text positions of each word.
        direction: "i2t", the probability with which each image query attends to the word's tokens (Seg4Diff, Fig. 9);
            "t2i", the probability with which they attend to each image position (Fig. 16).
        heads: "mean" (average over heads) or "all" (a map for each).

    >>> from mmdit_probe import Probe, WordMaps, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [WordMaps([[2, 3]])], layers=[7]) as probe:  # "red circle": position 0 is the start token
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> dict(probe.dataset("conditional")["word_map"].isel(call=0, batch=0, layer=0).sizes)
    {'word': 1, 'row': 8, 'col': 8}
    """

    def __init__(self, spans: Sequence[Sequence[int]], direction: Direction = "i2t", heads: Heads = "mean") -> None:
        if direction not in get_args(Direction):
            raise ValueError(f"WordMaps: direction must be 'i2t' or 't2i', got {direction!r}")
        check_heads("WordMaps", heads)
        if not spans or not all(spans):
            raise ValueError("WordMaps: every word needs at least one text position")
        self.spans = tuple(tuple(span) for span in spans)
        self.direction: Direction = direction
        self.heads: Heads = heads

    def reduction(self, attention: JointAttention) -> Reduction:
        self._check(attention)
        layout, weights = attention.layout, self._weights(attention)
        total = MapSum(attention, len(self.spans), layout.image, self.heads)

        def add_columns(block: Block) -> None:
            total.add_values(block, weights @ block.probs[:, :, layout.image_queries].transpose(-1, -2))

        def add_rows(block: Block) -> None:
            total.add_values(block, weights @ block.probs)

        def result() -> Fields:
            dims = (*leading_dims(self.heads), "word", *layout.grid_dims)
            over = "" if self.heads == "all" else ", mean over heads"
            return {"word_map": Field(dims, total.maps.unflatten(-1, layout.grid), _MEANINGS[self.direction] + over)}

        return OverTextColumns(add_columns, result) if self.direction == "i2t" else OverTextRows(add_rows, result)

    def _check(self, attention: JointAttention) -> None:
        last = max(max(span) for span in self.spans)
        if last >= attention.layout.text and not _negative(attention):
            raise ValueError(f"WordMaps: position {last} does not exist; there are {attention.layout.text} text tokens")
        if self.direction == "t2i" and Region.T2I not in attention.layout.regions:
            raise ValueError("WordMaps: text does not attend to the image in this model; use the direction i2t")

    def _weights(self, attention: JointAttention) -> Float[Tensor, "word text"]:
        """1 / (number of the word's tokens) at its tokens, else 0."""
        text = attention.layout.text
        weights = exact(attention.query.new_zeros(len(self.spans), text))
        for word, span in enumerate(self.spans):
            weights[word, [place for place in span if place < text]] = 1 / len(span)  # negative prompts can be shorter
        return weights

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return len(self.spans) * layout.image * (1 if self.heads == "mean" else heads)


def _negative(attention: JointAttention) -> bool:
    """Whether the call is known to carry negative prompts alone, which may be shorter."""
    return attention.conditional is not None and not attention.conditional.any()
