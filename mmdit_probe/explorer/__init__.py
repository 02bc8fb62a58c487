"""The explorer: one picture's attention as a self-contained HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..configs import ExploreConfig
from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page


def explore(pipe: Any, prompt: str, picture: np.ndarray | None = None, **settings: Any) -> Page:
    """The explorer page of one picture, as notebooks show it; ``.save("page.html")`` writes it.

    ``picture`` (height, width, 3) uint8 RGB is read through the model, None generates one; ``settings`` are those of
    `ExploreConfig`.
    """
    config = ExploreConfig(prompt, **settings)
    recording = measure_exploration(pipe, config, picture)
    return make_page(contents_of(recording.record), recording.picture, config.megabytes)


__all__ = ["Contents", "Page", "contents_of", "explore", "make_page", "measure_exploration"]
