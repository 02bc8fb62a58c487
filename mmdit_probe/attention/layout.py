"""Where the tokens sit: the only place that knows which positions are image and which are text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Order = Literal["image-text", "text-image"]
Place = Literal["first", "between", "last"]
Scope = Literal["joint", "image-queries", "cross"]
_NOWHERE = slice(0, 0)


class Region(StrEnum):
    """The four blocks of the joint attention matrix, named query-to-key."""

    I2I = "I2I"
    I2T = "I2T"
    T2I = "T2I"
    T2T = "T2T"


@dataclass(frozen=True)
class Extra:
    """A run of tokens that are neither text nor the image that is being made.

    ``name`` says what they are (register, padding, reference); ``place`` where they stand: before both
    streams, between them, or behind both.
    """

    name: str
    tokens: int
    place: Place


@dataclass(frozen=True)
class TokenLayout:
    """Image grid, number of text positions, and which come first.

    ``grid`` is (rows, cols), or (frames, rows, cols) for video. Text positions include start, end
    and padding tokens and whatever else the model puts into its text stream. ``extras`` are further
    tokens of the softmax that belong to neither. ``scope`` says who attends to whom: "joint", all to
    all; "image-queries", the image to all; "cross", the image to the text alone.
    """

    grid: tuple[int, ...]
    text: int
    order: Order = "image-text"
    extras: tuple[Extra, ...] = ()
    scope: Scope = "joint"

    def __post_init__(self) -> None:
        if len(self.grid) not in (2, 3) or any(size < 1 for size in self.grid):
            raise ValueError(f"TokenLayout: grid must be (rows, cols) or (frames, rows, cols), got {self.grid}")
        if self.text < 0:
            raise ValueError(f"TokenLayout: the number of text tokens must be 0 or more, got {self.text}")
        if self.order not in ("image-text", "text-image"):
            raise ValueError(f"TokenLayout: order must be 'image-text' or 'text-image', got {self.order!r}")
        if self.scope not in ("joint", "image-queries", "cross"):
            raise ValueError(f"TokenLayout: scope must be 'joint', 'image-queries' or 'cross', got {self.scope!r}")
        if any(extra.tokens < 0 or extra.place not in ("first", "between", "last") for extra in self.extras):
            raise ValueError(f"TokenLayout: extras need 0 or more tokens, first, between or last, got {self.extras}")

    @property
    def image(self) -> int:
        """Number of image tokens."""
        return math.prod(self.grid)

    @property
    def extra(self) -> int:
        """Number of tokens that are neither image nor text."""
        return sum(extra.tokens for extra in self.extras)

    @property
    def tokens(self) -> int:
        """Number of all tokens."""
        return self.image + self.text + self.extra

    @property
    def queries(self) -> int:
        """Number of queries of one attention call."""
        return self.tokens if self.scope == "joint" else self.image

    @property
    def keys(self) -> int:
        """Number of keys of one attention call."""
        return self.text if self.scope == "cross" else self.tokens

    @property
    def image_slice(self) -> slice:
        """Positions of the image tokens among all tokens."""
        return self._spans()["image"][0]

    @property
    def text_slice(self) -> slice:
        """Positions of the text tokens among all tokens."""
        return self._spans()["text"][0]

    @property
    def image_queries(self) -> slice:
        """Positions of the image tokens among a call's queries."""
        return self.image_slice if self.scope == "joint" else slice(0, self.image)

    @property
    def text_queries(self) -> slice:
        """Positions of the text tokens among a call's queries; empty where text does not attend."""
        return self.text_slice if self.scope == "joint" else _NOWHERE

    @property
    def image_keys(self) -> slice:
        """Positions of the image tokens among a call's keys; empty in plain cross-attention."""
        return _NOWHERE if self.scope == "cross" else self.image_slice

    @property
    def text_keys(self) -> slice:
        """Positions of the text tokens among a call's keys."""
        return slice(0, self.text) if self.scope == "cross" else self.text_slice

    @property
    def extra_keys(self) -> list[slice]:
        """Positions among a call's keys of the tokens that are neither image nor text."""
        return [] if self.scope == "cross" else self._spans()["extra"]

    @property
    def regions(self) -> frozenset[Region]:
        """The regions that one softmax covers; the others do not exist in this model."""
        if self.scope == "joint":
            return frozenset(Region)
        return frozenset([Region.I2T] if self.scope == "cross" else [Region.I2I, Region.I2T])

    @property
    def grid_dims(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        return ("row", "col") if len(self.grid) == 2 else ("frame", "row", "col")

    def uniform(self, region: Region) -> float:
        """The region's mass if every query attended to all keys alike, in [0, 1]; NaN where there is no such region."""
        if region not in self.regions:
            return math.nan
        return (self.image if region in (Region.I2I, Region.T2I) else self.text) / self.keys

    def _spans(self) -> dict[str, list[slice]]:
        """Positions of each kind of token, in the order in which they stand."""
        runs = [*self._extra("first"), *self._streams(), *self._extra("last")]
        spans: dict[str, list[slice]] = {"image": [], "text": [], "extra": []}
        start = 0
        for kind, size in runs:
            spans[kind].append(slice(start, start + size))
            start += size
        return spans

    def _streams(self) -> list[tuple[str, int]]:
        first, second = ("image", self.image), ("text", self.text)
        if self.order == "text-image":
            first, second = second, first
        return [first, *self._extra("between"), second]

    def _extra(self, place: Place) -> list[tuple[str, int]]:
        return [("extra", extra.tokens) for extra in self.extras if extra.place == place]
