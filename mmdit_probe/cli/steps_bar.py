"""A bar of sampling steps, for commands that generate or read one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .session import Bar

if TYPE_CHECKING:
    from mmdit_probe.families import Pipeline


@contextmanager
def steps_shown(pipe: Pipeline, config: Any, is_given: bool, images: int = 1) -> Iterator[None]:
    """A bar of the transformer's calls while an image is generated (``config.generation.steps``) or given ones are read."""
    from mmdit_probe.pipelines.call_count import counted_calls

    times = getattr(config, "chosen_timesteps", None)
    total = 0 if is_given and times is None else images * len(times) if is_given and times else config.generation.steps
    with Bar("steps") as bar, counted_calls(pipe, bar.update, total):
        yield
