"""The garbage collector does not look through libraries while they load: none of them is garbage, and it takes a second."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, no garbage is collected until `resume_collector` is called."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def resume_collector() -> None:
    """The libraries are loaded: collect again, and never look at what there is by now."""
    _freeze()
    gc.enable()


@cache
def _freeze() -> None:
    """Once a process: of what later runs in it leave, garbage is collected."""
    gc.freeze()
