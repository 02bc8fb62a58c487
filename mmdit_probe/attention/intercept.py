"""Interception of attention calls: the only file that touches torch's overrides.

Every attention processor of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`. A forward pre-hook
on an attention module pushes a handler onto this thread's stack and a forward hook pops it; while the stack is not
empty, a function mode passes each attention call to the handlers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .kernels import AttentionArguments, AttentionCall

Handle = Callable[[int, AttentionCall, Tensor | None], Tensor | None]
"""``handle(layer, call, output)`` gets a call and its output so far (None if unchanged) and returns the output to
continue with, or None to leave it unchanged."""


class StopForward(Exception):
    """Ends a forward pass after the last layer that is needed."""


class _Stack(threading.local):
    """The handlers active in this thread, outermost probe first."""

    def __init__(self) -> None:
        self.active: list[_Active] = []
        self.mode: _AttentionMode | None = None

    def push(self, active: _Active) -> None:
        if self.mode is None:
            self.mode = _AttentionMode(self)
            self.mode.__enter__()
        self.active.append(active)

    def drop(self, interceptor: Interceptor) -> _Active | None:
        """Remove the interceptor's entries; returns the last of them, or None if it has none."""
        mine = [active for active in self.active if active.interceptor is interceptor]
        self.active = [active for active in self.active if active.interceptor is not interceptor]
        if not self.active and self.mode is not None:
            self.mode.__exit__(None, None, None)
            self.mode = None
        return mine[-1] if mine else None


class _Active:
    """A layer whose forward is running, and how many attention calls it has made."""

    def __init__(self, interceptor: Interceptor, layer: int) -> None:
        self.interceptor, self.layer, self.calls = interceptor, layer, 0


class _AttentionMode(TorchFunctionMode):
    def __init__(self, stack: _Stack) -> None:
        super().__init__()
        self.stack = stack

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        call = _bind(*args, **kwargs)
        plain = call.attended.output  # runs here, in the caller's gradient mode; handlers may be in no_grad
        output: Tensor | None = None
        with torch.autocast(call.query.device.type, enabled=False):  # readouts compute in fp32
            for active in tuple(self.stack.active):
                active.calls += 1
                changed = active.interceptor.handle(active.layer, call, output)
                output = output if changed is None else changed
        return plain if output is None else output


def _bind(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    query, key, value = (_autocast(tensor) for tensor in (query, key, value))
    mask = attn_mask if attn_mask is None else _autocast(attn_mask)
    return AttentionCall(query, key, value, AttentionArguments(mask, dropout_p, is_causal, scale, enable_gqa))


def _autocast(tensor: Tensor) -> Tensor:
    """The tensor in the dtype to which autocast brings the plain call's; the kernels' own operators bypass autocast."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device) or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


_stack = _Stack()


def active_probes() -> int:
    """Number of handlers active in this thread; 0 outside of attention modules."""
    return len(_stack.active)


class Interceptor:
    """Passes the attention calls of some layers to ``handle``, between `open` and `close`."""

    def __init__(self, layers: Mapping[int, nn.Module], handle: Handle) -> None:
        self.layers, self.handle = layers, handle
        self._hooks: list[RemovableHandle] = []

    def open(self) -> None:
        """Register the hooks."""
        for layer, module in self.layers.items():
            self._hooks.append(module.register_forward_pre_hook(self._enter(layer)))
            # prepend: of nested probes, the inner one leaves first
            self._hooks.append(module.register_forward_hook(self._leave, prepend=True, always_call=True))

    def close(self) -> None:
        """Remove the hooks and the mode, also after an exception that skipped the forward hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        _stack.drop(self)

    def _enter(self, layer: int) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any) -> None:
            _stack.drop(self)  # left over if an interrupt skipped the forward hook
            _stack.push(_Active(self, layer))

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        active = _stack.drop(self)
        if active is not None and active.calls == 0 and output is not None:
            processor = type(getattr(module, "processor", module)).__name__
            raise ValueError(
                f"Probe: layer {active.layer} ran its attention through {processor}, which does not call "
                f"torch's scaled_dot_product_attention; switch to diffusers' default processor "
                f"(transformer.set_attn_processor / set_attention_backend('native')) and open the probe again"
            )
