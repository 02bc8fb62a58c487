"""Bypass and ScaleText: a block left out, and its text stream louder, quieter or gone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from .streams import BlockEdit, Streams


class Bypass(BlockEdit):
    """Leave a block out: its residual streams go on as they came.

    The text stream of a block that gives none on (SD3's last) stays none. Stable Flow (arXiv 2411.14430) ranks the blocks by
    how far the image moves without each.
    """

    def __init__(self, layer: int | Collection[int] | None, **where: Any) -> None:
        super().__init__(layer, **where)
        if self.words or self.kinds:
            raise ValueError("Bypass: a whole block is left out, not words or kinds; see ScaleText")

    def leave(self, given: Streams, made: Streams) -> Streams:
        return made.changed(image=given.image, text=None if made.text is None else given.text)


class ScaleText(BlockEdit):
    """Multiply the text stream that a block is given by ``factor``; 0 leaves none, 1 changes nothing.

    The scaled stream goes on behind the block. Blocks normalize what they read, so that a factor other than 0 changes only
    how much the block's own contribution weighs beside the stream, and nothing at all in a block that gives no text on.

    Args:
        layer: a layer number or several; None for every layer, each of which then multiplies what the last one left.
        factor: any finite number.
        where: steps, words, kinds and batch, see `Edit`. ``words`` and ``kinds`` scale these tokens alone.
    """

    def __init__(self, layer: int | Collection[int] | None, factor: float, **where: Any) -> None:
        super().__init__(layer, **where)
        if not abs(factor) < float("inf"):
            raise ValueError(f"ScaleText: factor must be a finite number, got {factor}")
        self.factor = factor

    @property
    def is_identity(self) -> bool:
        return self.factor == 1

    def enter(self, streams: Streams) -> Streams:
        if streams.text is None:
            return streams
        return streams.changed(text=torch.where(self.chosen_text(streams), self.factor * streams.text, streams.text))
