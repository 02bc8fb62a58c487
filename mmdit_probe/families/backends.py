"""While a probe is open: eager execution and diffusers' native attention backends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

from .shared import Undo, is_held, shared_change

_TORCHS = (
    AttentionBackendName.NATIVE,
    AttentionBackendName._NATIVE_CUDNN,
    AttentionBackendName._NATIVE_EFFICIENT,
    AttentionBackendName._NATIVE_FLASH,
    AttentionBackendName._NATIVE_MATH,
)
"""Backends that call `scaled_dot_product_attention`, with a kernel of PyTorch's choice or of theirs."""


@contextmanager
def eager_and_native(attentions: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, compiled modules run eagerly, and every attention module calls PyTorch's `scaled_dot_product_attention`.

    Leaving the with block restores both. Modules and settings are those of all threads: other threads' calls give the same
    numbers meanwhile, up to the kernels' rounding.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing was compiled
            stack.enter_context(shared_change("stance", _eager))
        for attention in attentions:
            processor: Any = getattr(attention, "processor", None)
            if getattr(processor, "_attention_backend", None) not in (None, *_TORCHS) or _is_held(processor):
                stack.enter_context(shared_change(_key(processor), partial(_native, processor)))
        if _AttentionBackendRegistry.get_active_backend()[0] not in _TORCHS or _is_held(_AttentionBackendRegistry):
            stack.enter_context(shared_change(_key(_AttentionBackendRegistry), _native_for_all))
        yield


def _key(owner: Any) -> tuple[str, int]:
    return "backend", id(owner)


def _is_held(owner: Any) -> bool:
    """Whether another probe has changed it already, and would change it back."""
    return is_held(_key(owner))


def _eager() -> Undo:
    stance = torch.compiler.set_stance("force_eager")
    stance.__enter__()
    return lambda: stance.__exit__(None, None, None)


def _native(processor: Any) -> Undo:
    chosen, processor._attention_backend = processor._attention_backend, AttentionBackendName.NATIVE
    return lambda: setattr(processor, "_attention_backend", chosen)


def _native_for_all() -> Undo:
    active = _AttentionBackendRegistry.get_active_backend()[0]
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
    return lambda: _AttentionBackendRegistry.set_active_backend(active)
