"""SharedPrefix: the blocks before an edited layer, computed once for all layers that are edited in the same call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..families import IMAGE, TEXT, Pipeline, block_inputs, denoiser_of, family_of, layers_of
from ..families.block_streams import BlockStreams, block_streams


class SharedPrefix:
    """Does not compute again what no edit has touched: in a sweep over layers, all blocks before the edited one.

    It keeps the arguments of the transformer's call and what one block gave. A call with other arguments is computed anew, so that
    results are those of whole calls, bit for bit; the weights must stay as they are. Models whose blocks' streams are not known
    compute everything, as do calls with gradients.

    Args:
        pipe: a pipeline, or its transformer.

    Attributes:
        spared: how many blocks were not computed again.

    >>> from mmdit_probe import BlurText, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> prefix = SharedPrefix(pipe)
    >>> for layer in (2, 7):
    ...     with prefix.before(layer), Probe(pipe, [], edits=[BlurText(layer)]):
    ...         image = pipe("sand", num_inference_steps=1, generator=torch.Generator().manual_seed(0), max_sequence_length=0)
    >>> prefix.spared
    2
    """

    def __init__(self, pipe: Pipeline | nn.Module) -> None:
        self.transformer = denoiser_of(pipe)
        self.family = family_of(self.transformer)
        found = [block_streams(self.transformer, attention) for attention in layers_of(self.transformer)]
        blocks = [block for block in found if block is not None]
        self.blocks = blocks if len({block.block for block in blocks}) == len(found) else []
        self.spared = 0
        self._inputs: Any = None
        self._depth, self._output = 0, None
        self._first = False

    @contextmanager
    def before(self, layer: int) -> Iterator[None]:
        """Inside, the first call of the transformer takes what it has of the blocks before ``layer``, and keeps what is new.

        Layers in ascending order share the most; what an edit of ``layer`` or of later ones does is not touched.
        """
        with ExitStack() as stack:
            calls = iter([True])

            def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
                step = self.family.is_step(module, args, kwargs)
                self._first = step and next(calls, False) and not torch.is_grad_enabled()
                if self._first and not _same(self._inputs, (args, kwargs)):
                    self._inputs, self._depth, self._output = _copied((args, kwargs)), 0, None

            def leave(*_: Any) -> None:
                self._first = False

            if self.blocks[:layer]:
                stack.callback(self.transformer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(self.transformer.register_forward_hook(leave, always_call=True).remove)
            for number, block in enumerate(self.blocks[:layer]):
                _answered_by(stack, block.block, partial(self._answer, number, layer))
            yield

    def _answer(self, number: int, layer: int, forward: Any, *args: Any, **kwargs: Any) -> Any:
        """What a block before the edited layer gives: what is kept, or what it computes."""
        if not self._first:
            return forward(*args, **kwargs)
        known = self._depth if self._depth <= layer else 0
        if number < known:
            self.spared += 1
            if number < known - 1:  # the last one's output stands for all of them
                return _passed_on(self.blocks[number], args, kwargs)
            return _copied(self._output)
        output = forward(*args, **kwargs)
        if number == layer - 1 and layer > self._depth:
            self._depth, self._output = layer, _copied(output)
        return output


def _answered_by(stack: ExitStack, block: nn.Module, answer: Any) -> None:
    """Let ``answer`` speak for a block until ``stack`` is closed; it is given the block's own forward first."""
    own = vars(block).get("forward")
    block.forward = partial(answer, block.forward)

    def undo() -> None:
        if own is None:
            del block.forward
        else:
            block.forward = own

    stack.callback(undo)


def _passed_on(block: BlockStreams, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A block's inputs in the form of its outputs."""
    named = block_inputs(block.block, args, kwargs)
    return named[IMAGE] if block.joined else (named[TEXT], named[IMAGE])


def _copied(values: Any) -> Any:
    """The same with tensors of its own, which nobody writes to."""
    if isinstance(values, Tensor):
        return values.clone()
    if isinstance(values, tuple | list):
        return tuple(_copied(value) for value in values)
    if isinstance(values, Mapping):
        return {name: _copied(value) for name, value in values.items()}
    return values


def _same(one: Any, other: Any) -> bool:
    """Whether two nested collections of tensors and plain values are equal; what can't be told is not."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
            and torch.equal(one, other)
        )
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return one is other or (isinstance(other, str | int | float) and type(one) is type(other) and one == other)
