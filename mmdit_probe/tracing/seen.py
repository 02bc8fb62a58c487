"""Seen: everything that was read of one image."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..attention.text_tokens import TextTokens
from ..explorer.contents import contents_of
from ..explorer.page import Page, make_page
from ..utils.html import grid, image_tag
from ..utils.text import is_content_word
from .plan import Plan
from .report import Report, report_of
from .word import Word, check_kept

_SHOWN = 12
"""Most words whose maps a notebook shows."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What was read of one image.

    Attributes:
        record: the explorer's record: ``i2t_group`` of the plan's layers, ``region_mass`` and ``value_norm`` of all layers.
        details: head statistics and principal components of all layers at the plan's one timestep.
        text: what the text positions hold; None if that is not known.
        plan: what was read, and why.
        image: (height, width, 3) uint8 RGB: the image that was generated, or the user's own; None if there is none.
        named: the words that were asked for; none for every content word of the prompt.
        notes: what else is to be known, a sentence each.
    """

    record: xr.Dataset
    details: xr.Dataset
    text: TextTokens | None
    plan: Plan
    image: np.ndarray | None = None
    named: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt, empty if only embeddings were given."""
        return str(self.record.attrs["prompt"])

    @property
    def why(self) -> tuple[str, ...]:
        """Which layers and timesteps were read, and why; a sentence each."""
        return (*self.plan.why, *self.notes)

    def word(self, word: str, *, layer: int | None = None, timestep: int | None = None) -> Word:
        """Where a word or phrase of the prompt is: all its occurrences, or with ``circle#2`` the second alone.

        Args:
            word: as it stands in the prompt; upper and lower case are the same.
            layer: the layer of its map; the plan's if None.
            timestep: the timestep of its map, counted from the clean end; the plan's if None.

        Raises:
            ValueError: the word is not in the prompt (the message lists its tokens and the word that is spelled most like
                it), or the layer or timestep was not kept.
        """
        maps = self._maps
        for what, wanted in (("layer", layer), ("timestep", timestep)):
            if wanted is not None:
                check_kept(what, wanted, maps[what])
        places = self._places(word)
        chosen = maps.isel(token=places).mean("token", keep_attrs=True).transpose("timestep", "layer", ...)
        chosen.attrs["long_name"] = "probability with which the image query attends to the word's tokens"
        return Word(
            word,
            tuple(places),
            chosen,
            self.plan.layer if layer is None else layer,
            self.plan.timestep if timestep is None else timestep,
            self.image,
        )

    @cached_property
    def _maps(self) -> xr.DataArray:
        """(timestep, layer, head_group, row, col, token); the frames of a video averaged."""
        maps = self.record["i2t_group"].rename(map_layer="layer")
        return maps.mean("frame", keep_attrs=True) if "frame" in maps.dims else maps

    def _places(self, word: str) -> list[int]:
        if self.text is None:
            raise ValueError(f"word: which text positions are words is {self.record.attrs['words']}")
        places = np.flatnonzero(self.text.spelling(word)[0]).tolist()
        if not places:
            raise ValueError(f"word: {self.text.without(word)}")
        return places

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        """The words of the table, each occurrence on its own, and which of how many it is."""
        if self.text is None:
            return []
        wanted = self.named or tuple(dict.fromkeys(filter(is_content_word, self.text.words())))
        found: list[tuple[str, str]] = []
        for word in wanted:
            times = self.text.times(word)
            if times > 1:
                found += [(f"{word}#{number}", f"{number} of {times}") for number in range(1, times + 1)]
            elif times:
                found.append((word, "1 of 1"))
            else:
                base, _, number = word.rpartition("#")
                found.append((word, f"{number.strip()} of {self.text.times(base)}"))
        return found

    @property
    def words(self) -> pd.DataFrame:
        """One row per word, or per occurrence of a word that stands in the prompt more than once.

        ``share`` is the share of the image's attention that all the word's tokens get, ``peak`` the largest probability of
        its map, in ``row`` and ``col`` counted in tokens from the top left; ``contrast`` is peak / mean: 1 for a word that
        is looked at from everywhere alike. Of `Seen.plan`'s layer and timestep, mean over heads.
        """
        rows = []
        for name, occurrence in self._names:
            word = self.word(name)
            row, col = word.peak_place
            rows.append([name, occurrence, word.share, word.peak, row, col, word.contrast])
        return pd.DataFrame(rows, columns=["word", "occurrence", "share", "peak", "row", "col", "contrast"])

    def report(self, path: Path | str | None = None) -> Report:
        """Everything on one page: words, attention budget, value norms, heads, principal components, the expert layer.

        Written to ``path`` if one is given; notebooks show it.
        """
        words = [self.word(name) for name, _ in self._names]
        curves = self.record[["region_mass", "value_norm"]].sel(timestep=[self.plan.timestep])
        record = curves.merge(self.details, compat="override", join="outer", combine_attrs="override")
        page = report_of(
            record.assign_attrs(self.record.attrs), words, self.image, self.plan.defaults, self.plan.why, self.notes
        )
        if path is not None:
            page.save(path)
        return page

    def explore(self, megabytes: float = 15.0) -> Page:
        """The explorer of this very run, at most so many MB; notebooks show it, ``.save("page.html")`` writes it."""
        return make_page(contents_of(self.record), self.image, megabytes)

    def _repr_html_(self) -> str:
        """The image, each word's map, and what was chosen, as notebooks show it."""
        shown = [] if self.image is None else [(image_tag(self.image, self.prompt, 192), self.prompt or "image")]
        names = [name for name, _ in self._names][:_SHOWN]
        shown += [(image_tag(np.asarray(self.word(name).picture()), name, 192), name) for name in names]
        pictures = grid([[tag for tag, _ in shown]], [name for _, name in shown])
        return pictures + "".join(f"<p>{html.escape(line)}</p>" for line in self.why)
