"""WordMaps: where the chosen words are looked at, without keeping the maps of all the other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..attention.joint import Block, Heads, JointAttention
from ..attention.layout import Region, TokenLayout
from .base import Field, Fields, Readout, Reduction

Direction = Literal["i2t", "t2i"]


class WordMaps(Readout):
    """``word_map`` (batch, [head,] word, row, col): mean over a word's tokens of their attention probabilities.

    ``spans`` lists the text positions of each word. Direction "i2t": the probability with which each image query
    attends to the word's tokens (Seg4Diff, Fig. 9); "t2i": with which the word's tokens attend to each image position
    (Fig. 16). Both in [0, 1], of the joint softmax over image and text; 0 for positions that a shorter negative prompt
    does not have. ``heads`` is "mean" or "all".
    """

    def __init__(self, spans: Sequence[Sequence[int]], direction: Direction = "i2t", heads: Heads = "mean") -> None:
        if direction not in ("i2t", "t2i"):
            raise ValueError(f"WordMaps: direction must be 'i2t' or 't2i', got {direction!r}")
        if heads not in ("mean", "all"):
            raise ValueError(f"WordMaps: heads must be 'mean' or 'all', got {heads!r}")
        if not spans or not all(spans):
            raise ValueError("WordMaps: every word needs at least one text position")
        self.spans = tuple(tuple(span) for span in spans)
        self.direction: Direction = direction
        self.heads: Heads = heads

    def reduction(self, attention: JointAttention) -> Reduction:
        last = max(max(span) for span in self.spans)
        if last >= attention.layout.text and not _negative(attention):
            raise ValueError(f"WordMaps: position {last} does not exist; there are {attention.layout.text} text tokens")
        if self.direction == "t2i" and Region.T2I not in attention.layout.regions:
            raise ValueError("WordMaps: in this model text does not attend to the image; use the direction i2t")
        return (_FromImage if self.direction == "i2t" else _FromText)(attention, self)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return len(self.spans) * layout.image * (1 if self.heads == "mean" else heads)


def _negative(attention: JointAttention) -> bool:
    """Whether the call is known to carry negative prompts alone, which may be shorter."""
    return attention.text is not None and not attention.text.conditional.any()


class _WordReduction:
    def __init__(self, attention: JointAttention, readout: WordMaps) -> None:
        self.layout, self.all_heads, self.heads = attention.layout, attention.heads, readout.heads
        leading = (attention.batch,) if readout.heads == "mean" else (attention.batch, attention.heads)
        self.maps = attention.query.new_zeros(*leading, len(readout.spans), self.layout.image, dtype=torch.float32)
        self.weights = attention.query.new_zeros(len(readout.spans), self.layout.text, dtype=torch.float32)
        for word, span in enumerate(readout.spans):
            there = [place for place in span if place < self.layout.text]  # all of them but in negative prompts
            self.weights[word, there] = 1 / len(span)

    def add(self, block: Block, words: Tensor) -> None:
        """``words`` (batch, heads, word, image) of a block."""
        if self.heads == "all":
            self.maps[block.batch, block.heads] = words
        else:
            self.maps[block.batch].add_(words.sum(1), alpha=1 / self.all_heads)

    def result(self) -> Fields:
        leading = ("batch",) if self.heads == "mean" else ("batch", "head")
        values = self.maps.unflatten(-1, self.layout.grid)
        return {"word_map": Field((*leading, "word", *self.layout.grid_dims), values)}


class _FromImage(_WordReduction):
    def text_columns(self, block: Block) -> None:
        self.add(block, self.weights @ block.probs[:, :, self.layout.image_queries].transpose(-1, -2))


class _FromText(_WordReduction):
    def text_rows(self, block: Block) -> None:
        self.add(block, self.weights @ block.probs)
