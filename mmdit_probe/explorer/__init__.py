"""The explorer: one image's attention as a self-contained HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..configs import ExploreConfig
from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page


def explore(pipe: Any, prompt: str, image: np.ndarray | None = None, **settings: Any) -> Page:
    """The explorer page of one image, as notebooks show it; ``.save("page.html")`` writes it.

    ``image`` (height, width, 3) uint8 RGB is read through the model, None generates one; ``settings`` are those of
    `ExploreConfig`.
    """
    config = ExploreConfig(prompt=prompt, **settings)
    recording = measure_exploration(pipe, config, image)
    return make_page(contents_of(recording.record), recording.image, config.megabytes)


__all__ = ["Contents", "Page", "contents_of", "explore", "make_page", "measure_exploration"]
