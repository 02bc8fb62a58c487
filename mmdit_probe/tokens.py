"""What the text positions hold: the string and the kind of each token, for each batch row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from .markup import chips


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
    encoder.
    """

    strings: np.ndarray
    kinds: np.ndarray
    encoders: np.ndarray
    conditional: np.ndarray

    @property
    def is_prompt(self) -> np.ndarray:
        """(batch, text): True where a token is a word of the prompt."""
        return self.kinds == Kind.WORD

    def _repr_html_(self) -> str:
        """Each batch row's tokens with their kinds, as notebooks show it."""
        numbered = [[f"{place} {kind}" for place, kind in enumerate(kinds)] for kinds in self.kinds]
        return "".join(f"<p>{chips(row, notes)}</p>" for row, notes in zip(self.strings, numbered, strict=True))

    def repeated(self, times: int) -> TextTokens:
        """Each row ``times`` times, as for several images of one prompt."""
        return TextTokens(
            self.strings.repeat(times, 0), self.kinds.repeat(times, 0), self.encoders, self.conditional.repeat(times)
        )

    def rows(self, rows: slice) -> TextTokens:
        """Some batch rows."""
        return TextTokens(self.strings[rows], self.kinds[rows], self.encoders, self.conditional[rows])

    def without_padding(self, length: int) -> TextTokens | None:
        """The first ``length`` positions if all others are padding, as for models that leave padding out; else None."""
        places = np.arange(len(self.encoders))
        if len(places) < length or (self.kinds[:, places >= length] != Kind.PADDING).any():
            return None
        kept = places < length
        return TextTokens(self.strings[:, kept], self.kinds[:, kept], self.encoders[kept], self.conditional)

    def conditional_rows(self) -> TextTokens:
        """The rows of the prompt alone."""
        kept = self.conditional.astype(bool)
        return TextTokens(self.strings[kept], self.kinds[kept], self.encoders, self.conditional[kept])


def join_rows(parts: Sequence[TextTokens]) -> TextTokens:
    """Batches one after the other."""
    return TextTokens(
        np.concatenate([part.strings for part in parts]),
        np.concatenate([part.kinds for part in parts]),
        parts[0].encoders,
        np.concatenate([part.conditional for part in parts]),
    )


def join_positions(parts: Sequence[TextTokens]) -> TextTokens:
    """Text positions of several encoders one after the other."""
    return TextTokens(
        np.concatenate([part.strings for part in parts], 1),
        np.concatenate([part.kinds for part in parts], 1),
        np.concatenate([part.encoders for part in parts]),
        parts[0].conditional,
    )
