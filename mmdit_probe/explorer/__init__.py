"""The explorer: the attention of one image as a self-contained, interactive HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..configs import ExploreConfig
from ..families import Pipeline
from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page


def explore(pipe: Pipeline, prompt: str, image: np.ndarray | None = None, **settings: Any) -> Page:
    """Make the explorer page of one image; notebooks show it, and ``.save("page.html")`` writes it.

    Args:
        pipe: any supported pipeline; with ``image``, one that can read images.
        prompt: the prompt to generate from, or about the image.
        image: (height, width, 3) uint8 RGB to read with one forward pass per timestep; None generates an image.
        **settings: those of `ExploreConfig`.

    Raises:
        ValueError: a layer or timestep does not exist, or the page would be larger than ``megabytes``.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.configs import GenerationConfig
    >>> page = explore(load_pipeline(), "a star on snow", layers=(9,), generation=GenerationConfig(steps=2))
    >>> page.megabytes < 1
    True
    """
    config = ExploreConfig(prompt=prompt, **settings)
    recording = measure_exploration(pipe, config, image)
    return make_page(contents_of(recording.record), recording.image, config.megabytes)


__all__ = ["Contents", "Page", "contents_of", "explore", "make_page", "measure_exploration"]
