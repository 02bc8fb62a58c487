"""While a probe is open: eager execution and diffusers' native attention backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn


@contextmanager
def eager_and_native(attentions: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, compiled modules run eagerly, and every attention module calls PyTorch's `scaled_dot_product_attention`.

    Leaving the with block restores both.
    """
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing was compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for attention in attentions:
            processor: Any = getattr(attention, "processor", None)
            chosen = getattr(processor, "_attention_backend", None)
            if chosen not in (None, AttentionBackendName.NATIVE):
                stack.callback(setattr, processor, "_attention_backend", chosen)
                processor._attention_backend = AttentionBackendName.NATIVE
        active = _AttentionBackendRegistry.get_active_backend()[0]
        if active != AttentionBackendName.NATIVE:
            stack.callback(_AttentionBackendRegistry.set_active_backend, active)
            _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
        yield
