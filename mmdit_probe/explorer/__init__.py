"""The explorer: the attention of one image, or of two side by side, as a self-contained, interactive HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..configs import ExploreConfig
from .compare import side_by_side
from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page
from .sides import Side, page_of_two, side_of


def explore(source: Any, prompt: str | None = None, image: np.ndarray | None = None, **settings: Any) -> Page:
    """Make the explorer page of one image, or of two side by side; notebooks show it, ``.save("page.html")`` writes it.

    Args:
        source: a supported pipeline (with ``image``, one that can read images), a record, a record's file, or what `trace`
            or a study left of one image; or two of these, in a list, whose pages follow each other.
        prompt: the prompt that a pipeline generates from, or about the image; of a record, leave it out.
        image: (height, width, 3) uint8 RGB to read with one forward pass per timestep; None generates an image.
        **settings: those of `ExploreConfig`; of records ``layers`` (numbers) and ``megabytes`` alone.

    Raises:
        ValueError: a layer or timestep does not exist, a pipeline has no prompt, a list has not two, or the page would be
            larger than ``megabytes``.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.configs import GenerationConfig
    >>> short = {"layers": (9,), "generation": GenerationConfig(steps=2, max_sequence_length=0)}
    >>> pipe = load_pipeline()
    >>> explore(pipe, "a star on snow", **short).megabytes < 1
    True
    >>> from mmdit_probe import trace
    >>> with trace(pipe, layers=(9,)) as seen:
    ...     for prompt in ("a star on snow", "a star on sand"):
    ...         _ = pipe(prompt, num_inference_steps=2, max_sequence_length=0)
    >>> page = explore([seen[0], seen[1]])  # side by side
    """
    config = ExploreConfig(prompt=prompt, **settings)
    layers = config.layers if isinstance(config.layers, tuple) else None
    if isinstance(source, Sequence) and not isinstance(source, str):
        sides = [side_of(each, config, image) for each in source]
        return page_of_two(sides, config.megabytes, layers)
    side = side_of(source, config, image)
    return make_page(side.contents(layers), side.image, config.megabytes)


__all__ = [
    "Contents",
    "Page",
    "Side",
    "contents_of",
    "explore",
    "make_page",
    "measure_exploration",
    "page_of_two",
    "side_by_side",
    "side_of",
]
