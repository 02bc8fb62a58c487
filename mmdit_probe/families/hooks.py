"""What runs a transformer's layers in their place, or a second time: diffusers' hooks, and gradient checkpointing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from .shared import Undo, shared_change

Again = Callable[[], AbstractContextManager[None]]
Replay = Callable[[], Again]
"""Called when a block runs first; what it returns is entered when the block runs again."""

_PASSIVE = ("layerwise_casting", "peft_autocast_disable", "group_offloading", "context_parallel")
"""Beginnings of the names of hooks that move or cast weights and never answer in a layer's place."""


def answering_hooks(transformer: nn.Module, layer: nn.Module) -> str:
    """The names of the hooks of diffusers that can answer in place of an attention module: its own, and its parents'.

    Empty if there are none: caching, layer skipping and guidance leave such hooks.
    """
    path = next((name for name, module in transformer.named_modules() if module is layer), "")
    parts = path.split(".")
    modules = [transformer.get_submodule(".".join(parts[:length])) for length in range(len(parts), -1, -1)]
    names = [name for module in modules for name in _hooks(module)]
    return ", ".join(dict.fromkeys(name for name in names if not name.startswith(_PASSIVE)))


def caching_hooks(transformer: nn.Module) -> str:
    """The names of all hooks of diffusers in a transformer that can answer in a layer's place; empty if there are none."""
    hooks = [name for module in transformer.modules() for name in _hooks(module)]
    return ", ".join(dict.fromkeys(name for name in hooks if not name.startswith(_PASSIVE)))


def _hooks(module: nn.Module) -> list[str]:
    return list(getattr(getattr(module, "_diffusers_hook", None), "hooks", ()))


class _Here(threading.local):
    """The transformers of this thread whose blocks are replayed, and how."""

    def __init__(self) -> None:
        self.replays: list[tuple[nn.Module, Replay]] = []


_here = _Here()


@contextmanager
def replayed_blocks(transformer: nn.Module, replay: Replay) -> Iterator[None]:
    """Inside, blocks that this thread checkpoints are run again, in the backward pass, within what ``replay`` gives.

    Also if the backward pass comes after the with block.
    """
    with ExitStack() as stack:
        for module in transformer.modules():
            if getattr(module, "gradient_checkpointing", False) and hasattr(module, "_gradient_checkpointing_func"):
                stack.enter_context(shared_change(("checkpointing", id(module)), partial(_wrap, module, transformer)))
        known = (transformer, replay)
        _here.replays.append(known)
        stack.callback(_here.replays.remove, known)
        yield


def _wrap(module: Any, transformer: nn.Module) -> Undo:
    checkpoint = module._gradient_checkpointing_func

    def with_replay(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        replays = [replay() for owner, replay in _here.replays if owner is transformer]
        ran = False

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal ran
            if not ran:
                ran = True
                return block(*args, **kwargs)
            with ExitStack() as stack:
                for again in replays:
                    stack.enter_context(again())
                return block(*args, **kwargs)

        return checkpoint(run if replays else block, *args, **kwargs)

    module._gradient_checkpointing_func = with_replay
    return lambda: setattr(module, "_gradient_checkpointing_func", checkpoint)
