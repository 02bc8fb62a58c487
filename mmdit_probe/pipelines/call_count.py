"""Telling how far a pipeline call is: one count for each sampling step of its transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..families import Pipeline, denoiser_of, family_of, named_inputs
from ..utils.progress import Progress


@contextmanager
def counted_calls(pipe: Pipeline, tell: Progress, total: int = 0) -> Iterator[None]:
    """Inside, ``tell(done, total)`` is called after each call of the transformer or U-Net.

    Calls one after the other at the same timestep are one step: many pipelines call it for the negative prompt too.
    """
    transformer = denoiser_of(pipe)
    argument = family_of(transformer).timestep_argument
    done, last = 0, None

    def count(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: object) -> None:
        nonlocal done, last
        told = _number(named_inputs(module, args, kwargs).get(argument))
        done += told is None or told != last
        last = told
        tell(done, max(done, total))

    handle = transformer.register_forward_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _number(timestep: Any) -> float | None:
    """The first row's timestep; None if the call has none."""
    return None if timestep is None else float(torch.as_tensor(timestep).flatten()[0])
