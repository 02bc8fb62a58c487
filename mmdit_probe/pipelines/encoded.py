"""Encoded prompts, and which of them a transformer call carries: told by the embeddings themselves."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.text_tokens import TextTokens, join_rows

CONDITIONAL, UNCONDITIONAL, PERTURBED = "conditional", "unconditional", "perturbed"
"""The branches of guidance: the prompt's batch rows, the negative prompt's, and the prompt's with something left out."""


@dataclass(eq=False)
class Encoded:
    """What a pipeline encoded at once for one branch of guidance.

    Attributes:
        embeddings: (batch, tokens, width), or a list of samples.
        text: the text positions of each batch row; None if it is unknown what was encoded.
        branch: "conditional" or "unconditional"; None if it is unknown.
        vision: number of text positions, the first ones, that images in the prompts fill; None if unknown.
        in_run: whether the pipeline itself encoded it while it generated.
    """

    embeddings: Any
    text: TextTokens | None
    branch: str | None
    in_run: bool
    vision: int | None = 0
    _weak: list[Any] | None = None
    _is_list: bool = False

    def loosen(self) -> None:
        """Keep the embeddings only as long as somebody else does."""
        if self._weak is None:
            held = self.embeddings if isinstance(self.embeddings, list) else [self.embeddings]
            self._weak = [weakref.ref(one) for one in held if isinstance(one, Tensor)]
            self._is_list, self.embeddings = isinstance(self.embeddings, list), None

    def held(self) -> Any:
        """The embeddings; None if nobody has them any more."""
        if self._weak is None:
            return self.embeddings
        found = [ref() for ref in self._weak]
        if not found or any(one is None for one in found):
            return None
        return found if self._is_list else found[0]


@dataclass(frozen=True, eq=False)
class CarriedPrompts:
    """What the batch rows of a transformer call carry.

    Attributes:
        text: what their text positions hold; None if unknown.
        branches: (batch,) "conditional", "unconditional" or "perturbed"; None if unknown.
        source: (batch,) a number for each distinct row of embeddings; None if they were not recognized.
        prompts: the number of batch rows that the prompts fill once.
        vision: number of text positions, the first ones, that images in the prompts fill; None if unknown.
    """

    text: TextTokens | None = None
    branches: np.ndarray | None = None
    source: np.ndarray | None = None
    prompts: int = 0
    vision: int | None = 0


def recognized(known: Sequence[Encoded], embeddings: Any, batch: int) -> list[list[tuple[int, int]]] | None:
    """For each batch row the encoded rows that it can be: number of the encoding, and row in it.

    None if a row is none of those in ``known``, or if the embeddings are not one for each batch row.
    """
    if not isinstance(embeddings, list | tuple | Tensor) or len(embeddings) != batch:
        return None
    same = [number for number, entry in enumerate(known) if entry.held() is embeddings]
    if same:
        return [[(number, row) for number in same] for row in range(batch)]
    rows = []
    for sample in embeddings:
        found = list(_matches(known, sample, isinstance(embeddings, Tensor)))
        if not found:
            return None
        rows.append(found)
    return rows


def _matches(known: Sequence[Encoded], sample: Any, batched: bool) -> Iterator[tuple[int, int]]:
    candidates = [
        (number, row, made) for number, entry in enumerate(known) for row, made in enumerate(_rows(entry.held()))
    ]
    objects = [(number, row) for number, row, made in candidates if made is sample]
    if objects:
        yield from objects
        return
    for number, row, made in candidates:
        if _alike(sample, made, batched):
            yield number, row


def _rows(embeddings: Any) -> Any:
    return embeddings if isinstance(embeddings, list | Tensor) else ()


def _alike(sample: Any, made: Any, batched: bool) -> bool:
    """Whether a batch row is these embeddings, perhaps in another dtype, without their padding or with zeros behind."""
    if not isinstance(sample, Tensor) or not isinstance(made, Tensor) or sample.shape[1:] != made.shape[1:]:
        return False
    length = min(len(sample), len(made))
    if len(sample) != len(made) and not batched:
        return False
    same = length > 0 and torch.equal(made[:length].to(sample), sample[:length])
    return same and not bool(sample[length:].any())


def text_of(known: Sequence[Encoded], rows: Sequence[Sequence[tuple[int, int]]]) -> TextTokens | None:
    """The text positions of recognized batch rows; None if those of one of them are unknown."""
    found = []
    for candidates in rows:
        texts = [(known[number].text, row) for number, row in candidates]
        text, row = next(((text, row) for text, row in texts if text is not None), (None, 0))
        if text is None:
            return None
        found.append(text.rows(slice(row, row + 1)))
    return join_rows(found)


def text_embeddings(encoded: Any, halves: int) -> list[Any]:
    """The text embeddings among what `encode_prompt` returns, one for each half: the first value, and those of its kind.

    Pooled embeddings are of that kind, too, in Stable Cascade, with a single position; those of the first one's length are taken.
    """
    found = list(encoded) if isinstance(encoded, tuple) else [encoded]
    made = [value for value in found if _of_kind(found[0], value)]
    alike = [value for value in made if not isinstance(value, Tensor) or value.shape[1] == made[0].shape[1]]
    return (alike if len(alike) >= halves else made)[:halves]


def _of_kind(first: Any, value: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(value, Tensor):
        return (value.ndim, value.shape[-1]) == (first.ndim, first.shape[-1]) and value.ndim > 2
    return isinstance(first, list) and isinstance(value, list)
