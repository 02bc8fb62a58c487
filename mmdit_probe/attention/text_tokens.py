"""What the text positions hold: each token's string and kind, for each batch row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

import numpy as np

from ..utils.html import chips


class Kind(StrEnum):
    """What a text position is."""

    START = "start"
    WORD = "word"
    END = "end"
    PADDING = "padding"
    TEMPLATE = "template"
    """Part of the text that a pipeline wraps around the prompt for a language model."""
    ABSENT = "absent"
    """An all-zero position in place of a text encoder that is not loaded (T5 in SD3)."""


_NUMBERED = re.compile(r"(.*\S)\s*#\s*(\d+)")
_LIKE = 0.6
"""How like a word must be to be suggested, from 0 to 1."""


@dataclass(frozen=True)
class TextTokens:
    """The text positions of a batch.

    Attributes:
        strings: (batch, text) each token's text; "" for a token that only continues the bytes of a character.
        kinds: (batch, text) of `Kind`.
        encoders: (text,) the name of each position's text encoder.
        conditional: (batch,) False for batch rows with the negative prompt of classifier-free guidance.
        begins: (batch, text) True where a word can begin.
        ends: (batch, text) True where a word can end.
        other: what a second text encoder was given in the same positions, if it was given another prompt (SD3's two
            CLIPs with ``prompt_2``); None if they agree.
    """

    strings: np.ndarray
    kinds: np.ndarray
    encoders: np.ndarray
    conditional: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    other: TextTokens | None = None

    @property
    def labels(self) -> np.ndarray:
        """(batch, text): each position's text; both tokens, as "red | blue", where two encoders' prompts differ."""
        if self.other is None:
            return self.strings
        both = self.strings + " | " + self.other.strings
        return np.where(self.strings == self.other.strings, self.strings, both).astype(object)

    @property
    def is_prompt(self) -> np.ndarray:
        """(batch, text): True at the words of the prompt, as opposed to special tokens and padding."""
        return self.kinds == Kind.WORD

    def _repr_html_(self) -> str:
        """Each batch row's tokens and their kinds, for notebooks."""
        numbered = [[f"{place} {kind}" for place, kind in enumerate(kinds)] for kinds in self.kinds]
        return "".join(f"<p>{chips(row, notes)}</p>" for row, notes in zip(self.labels, numbered, strict=True))

    def spelling(self, word: str) -> np.ndarray:
        """(batch, text): True at the prompt's tokens that spell ``word``, a whole word or phrase.

        Finds every occurrence in every encoder and ignores case. ``word#2`` is the second occurrence in each encoder alone
        (unless the prompt itself says "word#2"). `ValueError` if only one of two encoders that share positions was given the
        word there.
        """
        found = self._spelled(word)
        if self.other is not None and (found != self.other._spelled(word)).any():
            raise ValueError(
                f"words: {word!r} is in the prompt of only one of two text encoders that share positions, so that it has "
                f"no positions of its own; give both the same prompt, or take a word that both have in the same place"
            )
        return found

    def _spelled(self, word: str) -> np.ndarray:
        """`spelling` in the first encoder's prompt alone."""
        wanted, number = self._wanted(word)
        found = np.zeros(self.strings.shape, bool)
        for row, start, stop, count in self._occurrences(wanted):
            if number in (None, count):
                found[row, start:stop] = True
        return found

    def times(self, word: str) -> int:
        """How often a word or phrase stands in the last batch row's prompt; the most often, if encoders differ."""
        last = len(self.strings) - 1
        return max((count for row, _, _, count in self._occurrences(word) if row == last), default=0)

    def _wanted(self, word: str) -> tuple[str, int | None]:
        """A word, and which of its occurrences is meant, counted from 1; None for all."""
        numbered = _NUMBERED.fullmatch(word.strip())
        if numbered is None or next(self._occurrences(word), None) is not None:
            return word, None
        return numbered[1], int(numbered[2])

    def _occurrences(self, word: str) -> Iterator[tuple[int, int, int, int]]:
        """Where a word stands: batch row, first position, the position after its last, and its number in this encoder."""
        target, seen = "".join(word.lower().split()), Counter[tuple[int, str]]()
        starts = self.is_prompt & self.begins & (self.strings != "")
        for row, start in np.argwhere(starts).tolist() if target else ():
            stop = self._spelt(row, start, target)
            if stop > start:
                encoder = (row, str(self.encoders[start]))
                seen[encoder] += 1
                yield row, start, stop, seen[encoder]

    def _spelt(self, row: int, start: int, target: str) -> int:
        """The position after the tokens from ``start`` that spell ``target``; ``start`` if they do not spell it."""
        strings, words, spelt, stop = self.strings[row], self.is_prompt[row], "", start
        while stop < len(words) and words[stop] and len(spelt) < len(target):
            spelt += "".join(strings[stop].lower().split())
            stop += 1
        while stop < len(words) and words[stop] and not strings[stop] and not self.begins[row, stop]:
            stop += 1
        return stop if spelt == target and self.ends[row, stop - 1] else start

    def without(self, word: str) -> str:
        """Error text: ``word`` is not in the last batch row's prompt, whose tokens are listed; and which word is like it."""
        base, number = self._wanted(word)
        times = self.times(base)
        if number is not None and times:
            count = "once" if times == 1 else f"{times} times"
            return f"{word!r}: the prompt has {base!r} {count}; occurrences are counted from 1"
        tokens = " ".join(self.labels[-1][self.is_prompt[-1]])
        return f"{word!r} is not among the prompt's tokens: {tokens}{self._suggestion(base)}"

    def _suggestion(self, word: str) -> str:
        """The word or phrase of the last batch row's prompt that is spelled most like ``word``, as a question."""
        words, length = self.words(), len(word.split())
        phrases = [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
        close = get_close_matches(" ".join(word.lower().split()), [*phrases, *words], n=1, cutoff=_LIKE)
        return f"; did you mean {close[0]!r}?" if close else ""

    def words(self) -> list[str]:
        """The words of the last batch row's prompt, in lower case, of one encoder after the other."""
        words: list[str] = []
        for place in np.flatnonzero(self.is_prompt[-1]):
            text = str(self.strings[-1, place]).strip().lower()
            if self.begins[-1, place] or not words:
                words.append(text)
            else:
                words[-1] += text
        return [word for word in words if word]

    def repeated(self, times: int) -> TextTokens:
        """Each batch row ``times`` times in a row, as for several images of one prompt."""
        return self._taken(np.repeat(np.arange(len(self.conditional)), times))

    def rows(self, rows: slice | np.ndarray) -> TextTokens:
        """Some batch rows."""
        return self._taken(rows)

    def _taken(self, rows: slice | np.ndarray, places: slice | np.ndarray = slice(None)) -> TextTokens:
        """Some batch rows and text positions."""
        by_place = {name: getattr(self, name)[rows][:, places] for name in _BY_PLACE}
        other = None if self.other is None else self.other._taken(rows, places)
        return TextTokens(encoders=self.encoders[places], conditional=self.conditional[rows], other=other, **by_place)

    def without_padding(self, length: int) -> TextTokens | None:
        """The first ``length`` positions, for models that drop padding; None if other positions hold more than padding."""
        places = np.arange(len(self.encoders))
        if len(places) < length or (self.kinds[:, places >= length] != Kind.PADDING).any():
            return None
        return self._taken(slice(None), places < length)

    def padding_last(self) -> TextTokens:
        """Each batch row's tokens, then its absent positions, then its padding.

        A position's encoder is that of the first batch row with a token there.
        """
        rank = np.select([self.kinds == Kind.PADDING, self.kinds == Kind.ABSENT], [2, 1])
        order = np.argsort(rank, axis=1, kind="stable")
        by_place = {name: np.take_along_axis(getattr(self, name), order, 1) for name in _BY_PLACE}
        encoders = self.encoders[order]
        filled = (np.take_along_axis(rank, order, 1) == 0).argmax(0)
        other = None if self.other is None else self.other.padding_last()
        return replace(self, **by_place, encoders=encoders[filled, np.arange(encoders.shape[1])], other=other)

    def with_branches(self, conditional: np.ndarray) -> TextTokens:
        """The same tokens in batch rows of which these, (batch,) bool, carry the prompt."""
        other = None if self.other is None else self.other.with_branches(conditional)
        return replace(self, conditional=conditional, other=other)

    def beside(self, other: TextTokens) -> TextTokens:
        """With what a second encoder was given in the same positions, if that differs."""
        same = np.array_equal(self.strings, other.strings) and np.array_equal(self.kinds, other.kinds)
        return self if same else replace(self, other=other)

    def widened(self, length: int) -> TextTokens:
        """Padded at the end to ``length`` positions."""
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
    """Batches concatenated, padded to the longest."""
    longest = max((len(part.encoders) for part in parts), default=0)
    parts = [part if len(part.encoders) == longest else part.widened(longest) for part in parts]
    by_place: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_PLACE}
    conditional = np.concatenate([part.conditional for part in parts])
    joined = TextTokens(encoders=parts[0].encoders, conditional=conditional, **by_place)
    return replace(joined, other=join_rows(others)) if (others := _others(parts)) else joined


def join_positions(parts: Sequence[TextTokens]) -> TextTokens:
    """The text positions of several encoders concatenated."""
    by_place: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts], 1) for name in _BY_PLACE}
    encoders = np.concatenate([part.encoders for part in parts])
    joined = TextTokens(encoders=encoders, conditional=parts[0].conditional, **by_place)
    return replace(joined, other=join_positions(others)) if (others := _others(parts)) else joined


def _others(parts: Sequence[TextTokens]) -> list[TextTokens]:
    """What second encoders were given in each part, which is the same if they agree; none if they agree in all."""
    if all(part.other is None for part in parts):
        return []
    return [replace(part, other=None) if part.other is None else part.other for part in parts]
