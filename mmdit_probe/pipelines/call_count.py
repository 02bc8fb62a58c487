"""Telling how far a pipeline call is: one count for each call of its transformer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..families import Pipeline, denoiser_of
from ..utils.progress import Progress


@contextmanager
def counted_calls(pipe: Pipeline, tell: Progress, total: int = 0) -> Iterator[None]:
    """Inside, ``tell(done, total)`` is called after each call of the transformer or U-Net.

    Pipelines that call it for the negative prompt too take two calls a step: the total then grows with what is done.
    """
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1
        tell(done, max(done, total))

    handle = denoiser_of(pipe).register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()
