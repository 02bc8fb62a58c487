"""What the text positions hold: the string and the kind of each token, for each batch row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from ..utils.html import chips


class Kind(StrEnum):
    """What a text position is."""

    START = "start"
    WORD = "word"
    END = "end"
    PADDING = "padding"
    TEMPLATE = "template"
    """Part of the text that a pipeline puts around the prompt for a language model."""
    ABSENT = "absent"
    """An all-zero position that stands for a text encoder which is not loaded (T5 in SD3)."""


@dataclass(frozen=True)
class TextTokens:
    """The text positions of a batch.

    ``strings`` and ``kinds`` are (batch, text); ``conditional`` is (batch,), False for the rows that
    carry the negative prompt of classifier-free guidance. ``encoders`` (text,) names each position's
    encoder. ``begins`` and ``ends`` (batch, text) are True where a word can begin or end with the token; a token
    that holds only further bytes of a character has the string "".
    """

    strings: np.ndarray
    kinds: np.ndarray
    encoders: np.ndarray
    conditional: np.ndarray
    begins: np.ndarray
    ends: np.ndarray

    @property
    def is_prompt(self) -> np.ndarray:
        """(batch, text): True where a token is a word of the prompt."""
        return self.kinds == Kind.WORD

    def _repr_html_(self) -> str:
        """Each batch row's tokens with their kinds, as notebooks show it."""
        numbered = [[f"{place} {kind}" for place, kind in enumerate(kinds)] for kinds in self.kinds]
        return "".join(f"<p>{chips(row, notes)}</p>" for row, notes in zip(self.strings, numbered, strict=True))

    def spelling(self, word: str) -> np.ndarray:
        """(batch, text): True at the prompt's tokens that together spell ``word``, a whole word or phrase.

        All its occurrences, in every encoder, in upper and lower case alike.
        """
        target = "".join(word.lower().split())
        found = np.zeros(self.strings.shape, bool)
        starts = self.is_prompt & self.begins & (self.strings != "")
        for row, start in np.argwhere(starts).tolist() if target else ():
            stop = self._spelt(row, start, target)
            found[row, start:stop] = True
        return found

    def _spelt(self, row: int, start: int, target: str) -> int:
        """Where the tokens from ``start`` on that spell ``target`` end; ``start`` if they do not."""
        strings, words, spelt, stop = self.strings[row], self.is_prompt[row], "", start
        while stop < len(words) and words[stop] and len(spelt) < len(target):
            spelt += "".join(strings[stop].lower().split())
            stop += 1
        while stop < len(words) and words[stop] and not strings[stop] and not self.begins[row, stop]:
            stop += 1
        return stop if spelt == target and self.ends[row, stop - 1] else start

    def without(self, word: str) -> str:
        """The message that a word is not in the last row's prompt, with the tokens that are."""
        return f"{word!r} is not among the prompt's tokens: {' '.join(self.strings[-1][self.is_prompt[-1]])}"

    def repeated(self, times: int) -> TextTokens:
        """Each row ``times`` times, as for several images of one prompt."""
        return self._taken(np.repeat(np.arange(len(self.conditional)), times))

    def rows(self, rows: slice | np.ndarray) -> TextTokens:
        """Some batch rows."""
        return self._taken(rows)

    def conditional_rows(self) -> TextTokens:
        """The rows of the prompt alone."""
        return self._taken(self.conditional.astype(bool))

    def _taken(self, rows: slice | np.ndarray, places: slice | np.ndarray = slice(None)) -> TextTokens:
        """Some rows and positions."""
        by_place = {name: getattr(self, name)[rows][:, places] for name in _BY_PLACE}
        return TextTokens(encoders=self.encoders[places], conditional=self.conditional[rows], **by_place)

    def without_padding(self, length: int) -> TextTokens | None:
        """The first ``length`` positions if all others are padding, as for models that leave padding out; else None."""
        places = np.arange(len(self.encoders))
        if len(places) < length or (self.kinds[:, places >= length] != Kind.PADDING).any():
            return None
        return self._taken(slice(None), places < length)

    def padding_last(self) -> TextTokens:
        """Each row's tokens, then its absent positions, then its padding.

        A position's encoder is that of the first row that has a token there.
        """
        rank = np.select([self.kinds == Kind.PADDING, self.kinds == Kind.ABSENT], [2, 1])
        order = np.argsort(rank, axis=1, kind="stable")
        by_place = {name: np.take_along_axis(getattr(self, name), order, 1) for name in _BY_PLACE}
        encoders = self.encoders[order]
        filled = (np.take_along_axis(rank, order, 1) == 0).argmax(0)
        return replace(self, **by_place, encoders=encoders[filled, np.arange(encoders.shape[1])])

    def widened(self, length: int) -> TextTokens:
        """With padding behind, up to ``length`` positions."""
        more = length - len(self.encoders)
        shape, encoders = (
            (len(self.conditional), more),
            np.full(more, self.encoders[-1] if len(self.encoders) else "", object),
        )
        strings, kinds = np.full(shape, "", object), np.full(shape, Kind.PADDING, object)
        begins, ends = np.ones((2, *shape), bool)
        return join_positions([self, TextTokens(strings, kinds, encoders, self.conditional, begins, ends)])


_BY_PLACE = ("strings", "kinds", "begins", "ends")


def join_rows(parts: Sequence[TextTokens]) -> TextTokens:
    """Batches one after the other; shorter ones are padded to the longest."""
    longest = max((len(part.encoders) for part in parts), default=0)
    parts = [part if len(part.encoders) == longest else part.widened(longest) for part in parts]
    by_place = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_PLACE}
    conditional = np.concatenate([part.conditional for part in parts])
    return TextTokens(encoders=parts[0].encoders, conditional=conditional, **by_place)


def join_positions(parts: Sequence[TextTokens]) -> TextTokens:
    """Text positions of several encoders one after the other."""
    by_place = {name: np.concatenate([getattr(part, name) for part in parts], 1) for name in _BY_PLACE}
    encoders = np.concatenate([part.encoders for part in parts])
    return TextTokens(encoders=encoders, conditional=parts[0].conditional, **by_place)
