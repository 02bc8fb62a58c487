"""Blocks whose residual streams are known: which of their arguments and results are the image's and the text's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import IMAGE, TEXT, block_inputs, block_of

_PAIRED = {
    "JointTransformerBlock",  # Stable Diffusion 3 and 3.5
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
    "Flux2TransformerBlock",
    "ChromaTransformerBlock",
    "QwenImageTransformerBlock",
    "AuraFlowJointTransformerBlock",
}
"""Blocks that take image and text apart, and return text and image."""
_JOINED = {"Flux2SingleTransformerBlock", "ChromaSingleTransformerBlock", "AuraFlowSingleTransformerBlock"}
"""Blocks that take and return one stream, the text's tokens before the image's."""


@dataclass(frozen=True, eq=False)
class BlockStreams:
    """A block, and how its streams are read and replaced.

    Image streams also hold the tokens of reference images, text streams those of registers.

    Attributes:
        block: the module.
        joined: whether text and image are one stream, text first.
    """

    block: nn.Module
    joined: bool

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], image: int) -> tuple[Tensor, Tensor]:
        """The image's and the text's stream, (batch, tokens, channels), of the block's arguments.

        ``image`` is the number of tokens of a joined stream that are not the text's.
        """
        named = block_inputs(self.block, args, kwargs)
        return self._apart(named[IMAGE], image) if self.joined else (named[IMAGE], named[TEXT])

    def with_given(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], streams: tuple[Tensor, Tensor]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The block's arguments with these streams."""
        new = {IMAGE: torch.cat(streams[::-1], 1)} if self.joined else dict(zip((IMAGE, TEXT), streams, strict=True))
        return (), {**block_inputs(self.block, args, kwargs), **new}

    def made(self, output: Any, image: int) -> tuple[Tensor, Tensor | None]:
        """The image's and the text's stream of what the block returns; no text where it gives none on."""
        if self.joined:
            return self._apart(output, image)
        text, own = output
        return own, text

    def with_made(self, streams: tuple[Tensor, Tensor | None]) -> Any:
        """What the block returns with these streams."""
        image, text = streams
        return torch.cat([text, image], 1) if self.joined and text is not None else (text, image)

    @staticmethod
    def _apart(stream: Tensor, image: int) -> tuple[Tensor, Tensor]:
        text = stream.shape[1] - image
        return stream[:, text:], stream[:, :text]


def block_streams(transformer: nn.Module, attention: nn.Module) -> BlockStreams | None:
    """The block that an attention module belongs to; None if its residual streams are not known."""
    block = block_of(transformer, attention)
    classes = {base.__name__ for base in type(block).__mro__}
    if block is None or not classes & (_PAIRED | _JOINED):
        return None
    return BlockStreams(block, not classes & _PAIRED)
