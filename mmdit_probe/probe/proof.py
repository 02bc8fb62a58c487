"""LayoutProof: checks a token layout by what the model does with other words and another image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.intercept import StopForward, overheard
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..attention.reordered import View
from ..families import Family, caching_hooks
from .changes import CopiedInputs, Unprovable, changed_images, changed_words, some_of

_NOISE = 0.01
"""Share of the largest change below which a token counts as unchanged, as rounding may leave."""


@dataclass(frozen=True)
class _Moved:
    """Which queries and keys of a call a change of the inputs has moved, (queries,) and (keys,) bool."""

    queries: Tensor
    keys: Tensor


class _Run:
    """The attention calls of one run until a second layer begins: the calls, and the layer of each, None if it is no layer's."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []
        self.layers: list[int | None] = []
        self._first: int | None = None
        self._inside: int | None = None

    def hear(self, call: AttentionCall) -> None:
        self.calls.append(call)
        self.layers.append(self._inside)

    def enter(self, layer: int) -> None:
        if self._first not in (None, layer):
            raise StopForward(id(self))
        self._first = self._inside = layer

    def leave(self) -> None:
        self._inside = None


class LayoutProof:
    """Runs the first layer three times: as it is, with half of the words changed, with half of the image tokens changed.

    The keys and queries that move must be those that the layout says; the model's random state, caches and arguments stay as
    they are. This costs three times the embeddings and the first layer, once.

    Args:
        transformer: the module that is called.
        modules: its attention layers by number.
        family: how its arguments are read.
    """

    def __init__(self, transformer: nn.Module, modules: Mapping[int, nn.Module], family: Family) -> None:
        self.transformer, self.modules, self.family = transformer, modules, family
        self._latest: tuple[object, int] = (None, -1)
        self._is_done = False

    def check(self, layout: TokenLayout, view: View | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`ValueError` if a call with these arguments does not do what the layout says, or if that can't be seen."""
        if self._is_done:
            return
        try:
            self._prove(layout, view, CopiedInputs(self.transformer, args, kwargs))
        except Unprovable as why:
            known = "is in none of the families, and " if self.family.guessed else ""
            shown = f"grid {layout.grid}, {layout.text} text tokens, {layout.order}, scope {layout.scope!r}"
            raise ValueError(
                f"Probe: {type(self.transformer).__name__} {known}does not confirm the layout ({shown}): {why}; if you know its "
                f"layout, give it as Probe(layout=TokenLayout(...)) and leave verify out"
            ) from None
        self._is_done = True

    def follow(self, call: object, layer: int) -> None:
        """`ValueError` if the layers of one forward pass do not run in the order of their numbers."""
        before = self._latest[1] if self._latest[0] is call else -1
        if self.family.guessed and layer < before:
            raise ValueError(
                f"Probe: layer {layer} of {type(self.transformer).__name__} ran after layer {before}: its blocks are not one "
                f"stack; such a model needs a family of its own"
            )
        self._latest = (call, layer)

    def _prove(self, layout: TokenLayout, view: View | None, inputs: CopiedInputs) -> None:
        if hooks := caching_hooks(self.transformer):
            raise Unprovable(f"{hooks} of diffusers would take the check's runs for steps")
        plain = self._run(inputs)
        number = _first_call(plain, layout, view)
        by_words: Sequence[_Moved] = ()
        if layout.text:
            words, name = some_of(layout.text), self.family.text_argument
            other = self._run(inputs, name, changed_words(inputs.tensor(name), words))
            by_words = _moved(plain, other, view)
            _check_words(layout, words, by_words[number])
        image, name = some_of(layout.image), self.family.image_argument
        why = Unprovable("its latents do not have this grid")
        for latents in changed_images(inputs.tensor(name), layout, image):
            try:
                by_image = _moved(plain, self._run(inputs, name, latents), view)
                return _check_image(layout, image, by_image, number, by_words)
            except Unprovable as reason:
                why = reason
        raise why

    def _run(self, inputs: CopiedInputs, name: str = "", value: Any = None) -> _Run:
        run = _Run()
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng(inputs.cuda_devices()))
            stack.enter_context(overheard(run.hear))
            for layer, module in self.modules.items():
                enter = module.register_forward_pre_hook(lambda *_, layer=layer: run.enter(layer))
                leave = module.register_forward_hook(lambda *_: run.leave(), always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            try:
                inputs.run(name, value)
            except StopForward as stop:
                if stop.args != (id(run),):
                    raise
        return run


def _first_call(run: _Run, layout: TokenLayout, view: View | None) -> int:
    """Which call is the first layer's that has the layout's size."""
    own = [number for number, layer in enumerate(run.layers) if layer is not None]
    if not own:
        raise Unprovable("its first layer makes no attention call")
    if run.layers[own[0]] != 0:
        raise Unprovable(f"layer {run.layers[own[0]]} runs before layer 0, so that its blocks are not one stack")
    for number in own:
        call = run.calls[number] if view is None else view.of(run.calls[number])
        if call is not None and _size(call) == (layout.queries, layout.keys):
            return number
    queries, keys = _size(run.calls[own[0]])
    raise Unprovable(
        f"its first layer has {queries} queries and {keys} keys, the layout {layout.queries} and {layout.keys}"
    )


def _size(call: AttentionCall) -> tuple[int, int]:
    return call.query.shape[2], call.key.shape[2]


def _check_words(layout: TokenLayout, words: Tensor, here: _Moved) -> None:
    """Changed words move their own keys (perhaps all text keys, if the model mixes them before), and no image's."""
    if not bool(here.keys[layout.text_keys][words].all()):
        raise Unprovable("other words do not move the keys that should be theirs")
    if bool(here.keys[layout.image_keys].any()):
        raise Unprovable("other words move keys that should be the image's")


def _check_image(
    layout: TokenLayout, image: Tensor, moved: Sequence[_Moved], number: int, by_words: Sequence[_Moved]
) -> None:
    """Changed image tokens move their own keys and queries alone; plain cross-attention has no joint attention beside it."""
    here = moved[number]
    if bool(here.keys[layout.text_keys].any()):
        raise Unprovable("another image moves keys that should be the text's")
    if layout.scope != "cross" and not torch.equal(here.keys[layout.image_keys], image):
        raise Unprovable("other image tokens do not move the keys that should be theirs, and no others")
    queries = [one.queries for one in moved[:number] if len(one.queries) == layout.image]
    if not any(torch.equal(some, image) for some in (here.queries[layout.image_queries], *queries)):
        raise Unprovable("other image tokens do not move the queries that should be theirs, and no others")
    for words, pixels in zip(by_words, moved, strict=True) if layout.scope == "cross" else ():
        some_words = bool(words.keys.any()) and not bool(words.keys.all())
        if (some_words and bool(pixels.keys.any())) or len(pixels.keys) >= layout.image + layout.text:
            raise Unprovable("beside its cross-attention it has joint attention, in which the text takes part, too")


def _moved(plain: _Run, other: _Run, view: View | None) -> list[_Moved]:
    if [call.key.shape for call in plain.calls] != [call.key.shape for call in other.calls]:
        raise Unprovable("its attention calls differ from run to run")
    pairs = zip(plain.calls, other.calls, plain.layers, strict=True)
    return [_of_call(one, two, None if layer is None else view) for one, two, layer in pairs]


def _of_call(one: AttentionCall, two: AttentionCall, view: View | None) -> _Moved:
    """In the layout's order where a view is given and describes the call."""
    if view is not None:
        one, two = (view.of(call) or call for call in (one, two))
    return _Moved(_differ(one.query, two.query), _differ(one.key, two.key))


def _differ(one: Tensor, other: Tensor) -> Tensor:
    change = (one.float() - other.float()).abs().amax((0, 1, 3)).cpu()
    return (change > _NOISE * change.max()) & (change > 0)
