"""The socket around a block: its residual streams, image and text, before and after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.text_tokens import TextTokens
from .base import Edit, spelled_tokens


@dataclass(frozen=True, eq=False)
class Streams:
    """The residual streams at a block, in the model's own precision.

    Attributes:
        image: (batch, image tokens, channels) of the image that is made, reference images apart.
        text: (batch, text tokens, channels); None if the block gives no text on, as the last of SD3.
        layer: the block's number, from 0.
        step: the sampling step, from 0.
        layout: where the tokens are in the attention.
        tokens: what the text positions hold; None if unknown.
        conditional: (batch,) whether each batch row carries the prompt; None if unknown.
    """

    image: Tensor
    text: Tensor | None
    layer: int
    step: int
    layout: TokenLayout
    tokens: TextTokens | None = None
    conditional: np.ndarray | None = None

    def changed(self, *, image: Tensor | None = None, text: Tensor | None = None) -> Streams:
        """The same with other streams; what is None stays."""
        return replace(self, image=self.image if image is None else image, text=self.text if text is None else text)


class BlockEdit(Edit):
    """Base class of edits of a block's residual streams: override `enter` (what the block is given) or `leave` (what it gives).

    Args:
        layer: a layer number or several; None for every layer.
        where: steps, words, kinds and batch, see `Edit`; not heads, which residual streams do not have.

    `Probe` refuses families whose blocks' streams are not known, and cross-attention, whose text has no stream.

    >>> from mmdit_probe import BlockEdit, Probe, load_pipeline
    >>> class Louder(BlockEdit):
    ...     '''The block's own contribution to the image, twice.'''
    ...     def leave(self, given, made):
    ...         return made.changed(image=2 * made.image - given.image)
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Louder(7)]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    takes_edge = False

    def __init__(self, layer: Any, **where: Any) -> None:
        if where.get("heads") is not None:
            raise ValueError(f"{type(self).__name__}: a block's residual streams have no heads; leave heads out")
        super().__init__(layer, **where)

    @property
    def is_around_blocks(self) -> bool:
        """Whether the edit needs the block's streams."""
        return True

    def enter(self, streams: Streams) -> Streams:
        """What the block is given in place of these streams."""
        return streams

    def leave(self, given: Streams, made: Streams) -> Streams:
        """What the block gives on in place of what it has ``made`` of the streams that it was ``given``."""
        return made

    def apply(self, attention: Any, output: Tensor) -> Tensor:
        return output

    def chosen_text(self, streams: Streams) -> Tensor:
        """(batch, text, 1) bool: the text tokens of the edit's words and kinds; all if it names none."""
        batch = len(streams.image)
        if not self.words and not self.kinds:
            return torch.ones(batch, streams.layout.text, 1, dtype=torch.bool, device=streams.image.device)
        return torch.from_numpy(spelled_tokens(streams.tokens, self.words, self.kinds)[..., None]).to(
            streams.image.device
        )
