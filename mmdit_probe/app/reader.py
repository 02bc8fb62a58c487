"""What the page does for its user, without the page: run the model, draw what was chosen, write the two pages."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..configs.generation import SamplingConfig, seeded
from ..configs.serve import ServeConfig
from ..families import Pipeline
from ..figures.overlay import overlay
from ..pipelines.call_count import counted_calls
from ..pipelines.defaults import text_length
from ..pipelines.prompts import check_length
from ..tracing import Seen, Word, read_generated, read_image
from ..utils.progress import Progress
from ..utils.text import checked_text

MEAN, ALL_HEADS = "mean", "all"
"""Instead of a layer's number, the mean of the layers that were kept; instead of a group of heads, the mean over all."""
_SMALLEST, _TILE = 384, 160
"""Sides in px: pictures are enlarged to the first, those of each layer shrunk to the second."""


@dataclass(frozen=True)
class View:
    """What is looked at of one image.

    Attributes:
        word: a word of `words_of`; None where no words are known.
        layer: a layer whose maps were kept, or ``"mean"``.
        timestep: a timestep that was kept, counted from the clean end.
        heads: a label of `heads_of`.
        smooth: interpolate between tokens, or draw each as a block.
    """

    word: str | None
    layer: int | str
    timestep: int
    heads: str = ALL_HEADS
    smooth: bool = True


class Reader:
    """One model that is asked for images and about them, one at a time.

    Args:
        pipe: any supported pipeline.
        config: how images are made, and which layers and timesteps are kept.
        model: its name, for the pages.
    """

    def __init__(self, pipe: Pipeline, config: ServeConfig = ServeConfig(), model: str = "") -> None:
        self.pipe, self.config, self.model = pipe, config, model
        self._kept: dict[str, Any] = {
            "layers": config.layers,
            "timesteps": config.timesteps,
            "head_groups": config.head_groups,
        }

    def generate(self, prompt: str, steps: int, seed: int, progress: Progress | None = None) -> Seen:
        """Generate an image and read it.

        `ValueError` if the prompt is empty or longer than the model reads, or a number is out of range.
        """
        prompt = checked_text("prompt", prompt)
        sampling = self._sampling(steps)
        check_length(self.pipe, [prompt], text_length(self.pipe, sampling.max_sequence_length))
        with counted_calls(self.pipe, progress or _silent, steps):
            seen = read_generated(self.pipe, prompt, generation=seeded(sampling, seed), **self._kept)
        return self._named(seen)

    def read(self, image: Path | str | Image.Image | np.ndarray, prompt: str, steps: int, seed: int) -> Seen:
        """Read an image that the user has; its words are the prompt's. `ValueError` as in `read_image`."""
        generation = seeded(self._sampling(steps), seed)
        return self._named(read_image(self.pipe, image, prompt, generation=generation, **self._kept))

    def _sampling(self, steps: int) -> SamplingConfig:
        return replace(self.config.sampling, steps=steps)

    def _named(self, seen: Seen) -> Seen:
        return replace(seen, record=seen.record.assign_attrs(model=self.model)) if self.model else seen


def _silent(done: int, total: int) -> None:
    """Tells nobody."""


def words_of(seen: Seen) -> list[str]:
    """The words that can be looked at, each occurrence on its own; none where it is not known which token is which word."""
    return [str(word) for word in seen.words["word"]]


def heads_of(seen: Seen) -> list[str]:
    """The mean over all heads, and the groups of heads that were kept, such as "0" or "0-2"."""
    labels = [str(label) for label in seen.record["head_group"].values]
    return [ALL_HEADS, *labels] if len(labels) > 1 else [ALL_HEADS]


def first_view(seen: Seen) -> View:
    """What is shown first: the word with the largest share, in the layer and at the timestep that were chosen for it."""
    table = seen.words
    word = str(table["word"].iloc[int(table["share"].argmax())]) if len(table) else None
    return View(word, MEAN if seen.plan.layer is None else seen.plan.layer, seen.plan.timestep)


def grid_of(seen: Seen, view: View) -> np.ndarray:
    """The map that a view shows, (row, col), probabilities in [0, 1]; of a video the mean of its frames.

    `ValueError` if its word, layer or timestep was not kept, or no word is chosen.
    """
    maps = _word(seen, view)
    if view.heads == ALL_HEADS:
        return maps.map.values
    by_head = maps.by_head
    return by_head.isel({str(by_head.dims[0]): heads_of(seen).index(view.heads) - 1}).values


def _word(seen: Seen, view: View) -> Word:
    if view.word is None:
        raise ValueError("word: choose one")
    layer = None if view.layer == MEAN else int(view.layer)
    return replace(seen.word(view.word, layer=layer, timestep=view.timestep), layer=layer)


def picture_of(seen: Seen) -> np.ndarray | None:
    """The image, small ones enlarged by a whole factor so that pixels stay pixels; None if there is none."""
    if seen.image is None:
        return None
    factor = max(1, -(-_SMALLEST // max(seen.image.shape[:2])))
    return seen.image.repeat(factor, 0).repeat(factor, 1)


def overlay_of(seen: Seen, view: View) -> Image.Image | None:
    """The view's map over the image as `picture_of` gives it; the image alone without a word, None without an image."""
    shown = picture_of(seen)
    if shown is None or view.word is None:
        return None if shown is None else Image.fromarray(shown)
    return overlay(shown, grid_of(seen, view), smooth=view.smooth)


def layer_pictures(seen: Seen, view: View) -> list[tuple[Image.Image, str]]:
    """The word in each layer that was kept, on one color scale, and the layer's name; none without a word or an image."""
    shown = picture_of(seen)
    if shown is None or view.word is None:
        return []
    small = Image.fromarray(shown)
    small.thumbnail((_TILE, _TILE))
    layers = seen.plan.layers
    grids = [grid_of(seen, replace(view, layer=layer)) for layer in layers]
    top = max((float(np.nanmax(grid)) for grid in grids if np.isfinite(grid).any()), default=None)
    image = np.asarray(small)
    return [
        (overlay(image, grid, smooth=view.smooth, top=top), f"layer {layer}")
        for layer, grid in zip(layers, grids, strict=True)
    ]


def says(seen: Seen, view: View) -> str:
    """A line on what the overlay shows; empty without a word."""
    if view.word is None:
        return ""
    grid = grid_of(seen, view)
    tokens = len(_word(seen, view).places)
    layer = "the mean of the layers" if view.layer == MEAN else f"layer {view.layer}"
    heads = "mean over heads" if view.heads == ALL_HEADS else f"heads {view.heads}"
    return (
        f"{view.word} in {layer}, timestep {view.timestep} of {seen.plan.steps} (1 is the cleanest), {heads}: "
        f"it gets {tokens * float(grid.mean()):.2%} of the image's attention; "
        f"the largest value of its map is {float(grid.max()):.2%}."
    )


def table_of(seen: Seen) -> pd.DataFrame:
    """`Seen.words` as it is shown: shares and peaks in percent."""
    table = seen.words
    return pd.DataFrame(
        {
            "word": table["word"],
            "share, %": (100 * table["share"]).round(2),
            "peak, %": (100 * table["peak"]).round(2),
            "peak / mean": table["contrast"].round(2),
            "peak in row": table["row"],
            "column": table["col"],
        }
    )


def write_pages(seen: Seen, folder: Path | None = None) -> tuple[Path, Path]:
    """Write the explorer page and the report of an image, to a new temporary folder if none is given."""
    folder = Path(tempfile.mkdtemp(prefix="mmdit-probe-")) if folder is None else folder
    return seen.explore().save(folder / "explore.html"), seen.report().save(folder / "report.html")
