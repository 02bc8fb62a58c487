"""Interception of attention calls: the only file that touches torch's overrides.

Every attention processor of diffusers ends in `torch.nn.functional.scaled_dot_product_attention`. A forward pre-hook
on an attention module pushes a handler onto this thread's stack and a forward hook pops it; while the stack is not
empty, a function mode passes each attention call to the handlers. Hooks stand on modules that other threads may use, too:
in a thread other than the one that opened the interceptor they do nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils.hooks import RemovableHandle

from .kernels import AttentionArguments, AttentionCall

Silent = Callable[[int, nn.Module, str], None]
"""``silent(layer, module, by)`` gets a layer that ran without an attention call, and the name of the function mode that
answered in the call's place, empty if it was none that can be seen."""

Handle = Callable[[int, AttentionCall, Tensor | None], tuple[AttentionCall, Tensor | None]]
"""``handle(layer, call, output)`` gets a call and its output so far (None if it is still the call's own) and returns the
call and the output to continue with."""


def in_backward() -> bool:
    """Whether this thread is in a backward pass, where checkpointing runs forward passes again."""
    return torch._C._current_graph_task_id() != -1


class StopForward(Exception):
    """Ends a forward pass after the last layer that is needed."""


class _Stack(threading.local):
    """The handlers active in this thread, outermost probe first."""

    def __init__(self) -> None:
        self.active: list[_Active] = []
        self.mode: _AttentionMode | None = None
        self.alone: Interceptor | _Ear | None = None  # who alone sees what this thread runs

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
    """A layer whose forward is running, how many attention calls it has made, and the mode that answered them instead."""

    def __init__(self, interceptor: Interceptor, layer: int) -> None:
        self.interceptor, self.layer, self.calls, self.answered = interceptor, layer, 0, ""


class _AttentionMode(TorchFunctionMode):
    def __init__(self, stack: _Stack) -> None:
        super().__init__()
        self.stack = stack

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        call = _bind(*args, **kwargs)
        outer = _outer_mode() if call.arguments.dropout_p == 0 else ""  # dropout differs from call to call
        plain = call.attended.output  # runs here, in the caller's gradient mode; handlers may be in no_grad
        if outer:
            answer = func(*args, **kwargs)  # as it is without a probe: the mode sees the call
            if not _same(answer, plain):
                for active in self.stack.active:
                    active.answered = outer
                return answer
        output: Tensor | None = None
        with torch.autocast(call.query.device.type, enabled=False):  # readouts compute in fp32
            for active in tuple(self.stack.active):
                active.calls += 1
                call, output = active.interceptor.handle(active.layer, call, output)
        return plain if output is None else output


def _outer_mode() -> str:
    """The name of the function mode that sees attention calls after this one, and may answer them; empty if there is none."""
    outer = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return type(outer[-1]).__name__ if outer else ""


def _same(answer: Any, plain: Tensor) -> bool:
    alike = isinstance(answer, Tensor) and answer.shape == plain.shape and answer.dtype == plain.dtype
    return alike and torch.allclose(answer, plain, rtol=0, atol=0, equal_nan=True)


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


def runs_apart() -> bool:
    """Whether what this thread runs now is for one interceptor alone, or overheard: no part of the pipeline's own call."""
    return _stack.alone is not None


def active_probes() -> int:
    """Number of handlers active in this thread; 0 outside of attention modules."""
    return len(_stack.active)


@contextmanager
def overheard(hear: Callable[[AttentionCall], None]) -> Iterator[None]:
    """Inside, ``hear`` gets every attention call of this thread, of whatever module; interceptors get none."""
    with _Ear(hear) as ear:
        before, _stack.alone = _stack.alone, ear
        try:
            yield
        finally:
            _stack.alone = before


class _Ear(TorchFunctionMode):
    def __init__(self, hear: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self.hear = hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.hear(_bind(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


class Interceptor:
    """Passes the attention calls of some layers to ``handle``, between `open` and `close`, in the thread that opens it.

    ``silent`` is told of layers that ran without a call. While ``paused`` is True, nothing is seen.
    """

    def __init__(self, layers: Mapping[int, nn.Module], handle: Handle, silent: Silent) -> None:
        self.layers, self.handle, self.silent = layers, handle, silent
        self.paused = False
        self._thread = threading.get_ident()
        self._hooks: list[RemovableHandle] = []

    @property
    def _is_watching(self) -> bool:
        return not self.paused and threading.get_ident() == self._thread and _stack.alone in (None, self)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Open inside, and the only one that sees what this thread runs: for blocks that are run a second time."""
        before, _stack.alone = _stack.alone, self
        self.open()
        try:
            yield
        finally:
            self.close()
            _stack.alone = before

    def open(self) -> None:
        """Register the hooks."""
        self._thread = threading.get_ident()
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
            if not self._is_watching:
                return
            _stack.drop(self)  # left over if an interrupt skipped the forward hook
            _stack.push(_Active(self, layer))

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._is_watching:
            return
        active = _stack.drop(self)
        if active is not None and active.calls == 0 and output is not None:
            self.silent(active.layer, module, active.answered)
