"""BlockHooks: passes the residual streams of some blocks to an editor, before and after each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..edits.streams import Streams
from ..families.block_streams import BlockStreams, block_streams
from .calls import TransformerCall
from .editor import Editor

Running = Callable[[], TransformerCall | None]
"""The transformer's call that runs now in the probe's thread; None in other threads."""


def blocks_of(transformer: nn.Module, attentions: Mapping[int, nn.Module], layers: set[int]) -> dict[int, BlockStreams]:
    """The blocks of some layers; `ValueError` if their residual streams are not known."""
    found = {layer: block_streams(transformer, attentions[layer]) for layer in sorted(layers & set(attentions))}
    unknown = [layer for layer, block in found.items() if block is None]
    if unknown:
        raise ValueError(
            f"edit: the residual streams of {type(transformer).__name__}'s blocks {unknown} are not known; take edits of the "
            f"attention, such as Knockout or HeadScale, not of blocks"
        )
    return {layer: block for layer, block in found.items() if block is not None}


class BlockHooks:
    """Hooks on blocks, from `open` until the stack that it is given is closed."""

    def __init__(self, blocks: Mapping[int, BlockStreams], editor: Editor, running: Running) -> None:
        self.blocks, self.editor, self.running = blocks, editor, running
        self._given: dict[int, Streams] = {}

    def open(self, stack: ExitStack) -> None:
        """Register the hooks; they are removed with ``stack``."""
        for layer, block in self.blocks.items():
            before = block.block.register_forward_pre_hook(self._enter(layer, block), with_kwargs=True)
            stack.callback(before.remove)
            after = block.block.register_forward_hook(self._leave(layer, block))
            stack.callback(after.remove)
        stack.callback(self._given.clear)

    def _enter(self, layer: int, block: BlockStreams) -> Callable[..., Any]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            call = self.running()
            if call is None:
                return None
            raw = block.given(args, kwargs, _image_side(call))
            given = _streams(call, layer, raw)
            self._given[layer] = entered = self.editor.entered(given)
            return None if entered is given else block.with_given(args, kwargs, _replaced(call, raw, entered))  # type: ignore[arg-type]

        return enter

    def _leave(self, layer: int, block: BlockStreams) -> Callable[..., Any]:
        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            call, given = self.running(), self._given.pop(layer, None)
            if call is None or given is None:
                return None
            raw = block.made(output, _image_side(call))
            made = _streams(call, layer, raw)
            left = self.editor.left(given, made)
            return None if left is made else block.with_made(_replaced(call, raw, left))

        return leave


def _image_side(call: TransformerCall) -> int:
    """Tokens behind the text's in a joined stream, whose text comes first."""
    return call.layout.tokens - call.layout.image_slice.start


def _places(call: TransformerCall, raw: tuple[Tensor, Tensor | None]) -> tuple[slice, slice]:
    """Where the image's and the text's own tokens are in the streams; `ValueError` if the layout does not fit them."""
    layout, (image, text) = call.layout, raw
    text_tokens = layout.tokens - image.shape[1] if text is None else text.shape[1]
    if image.shape[1] + text_tokens != layout.tokens or text_tokens < layout.text:
        raise ValueError(
            f"edit: the block's streams have {image.shape[1]} image and {text_tokens} text tokens, the layout {layout.image} "
            f"and {layout.text}; blocks of this model can't be edited"
        )
    image_first = layout.order == "image-text"
    image_at = layout.image_slice.start - (0 if image_first else text_tokens)
    text_at = layout.text_slice.start - (image.shape[1] if image_first else 0)
    return slice(image_at, image_at + layout.image), slice(text_at, text_at + layout.text)


def _streams(call: TransformerCall, layer: int, raw: tuple[Tensor, Tensor | None]) -> Streams:
    image, text = _places(call, raw)
    own_text = None if raw[1] is None else raw[1][:, text]
    return Streams(raw[0][:, image], own_text, layer, call.step, call.layout, call.text, call.conditional)


def _replaced(
    call: TransformerCall, raw: tuple[Tensor, Tensor | None], streams: Streams
) -> tuple[Tensor, Tensor | None]:
    """The streams with the image's and the text's own tokens replaced."""
    new = []
    for tensor, own, place in zip(raw, (streams.image, streams.text), _places(call, raw), strict=True):
        if tensor is None or own is None:
            new.append(tensor)
            continue
        changed = tensor.clone()
        changed[:, place] = own
        new.append(changed)
    image, text = new
    return image, text  # type: ignore[return-value]
