"""Which positions of an attention call are image, text and reference images: known here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Order = Literal["image-text", "text-image"]
Place = Literal["first", "between", "last"]
Scope = Literal["joint", "image-queries", "cross"]
_PLACES: tuple[Place, ...] = ("first", "between", "last")
_NOWHERE = slice(0, 0)


class TokenStream(StrEnum):
    """The tokens that a region's queries or keys are, by the letter that regions name them with."""

    IMAGE = "I"
    TEXT = "T"
    REFERENCE = "R"


class Region(StrEnum):
    """The blocks of the joint attention matrix, named query-to-key; R stands for all reference images together."""

    I2I = "I2I"
    I2T = "I2T"
    T2I = "T2I"
    T2T = "T2T"
    I2R = "I2R"
    T2R = "T2R"
    R2I = "R2I"
    R2T = "R2T"
    R2R = "R2R"

    @property
    def asking(self) -> TokenStream:
        """The stream of the region's queries."""
        return TokenStream(self[0])

    @property
    def answering(self) -> TokenStream:
        """The stream of the region's keys."""
        return TokenStream(self[2])


REGIONS = tuple(Region)
"""In the order in which records list them."""
TEXT_AND_IMAGE = REGIONS[:4]
"""The regions of a model without reference images."""
OTHERS = "O"
"""In tables, the letter of tokens that belong to no stream."""
REFERENCE = "reference"
"""Name of the extra tokens that are a reference image."""


@dataclass(frozen=True)
class Extra:
    """Consecutive tokens that are neither text nor the generated image.

    Attributes:
        name: what they are, such as register, padding or vision. Those named "reference" are a reference image each, and
            as such a stream of their own beside image and text; all others only take their share of the softmax.
        tokens: how many.
        place: "first" (before image and text), "between" them or "last".
        grid: a reference's tokens as (rows, cols), or (frames, rows, cols); None if that is not known.

    >>> from mmdit_probe import Extra, TokenLayout
    >>> layout = TokenLayout((4, 6), text=7, extras=(Extra("register", 2, "first"),))
    >>> layout.image_slice, layout.text_slice, layout.extra_keys
    (slice(2, 26, None), slice(26, 33, None), [slice(0, 2, None)])
    >>> layout = TokenLayout((4, 6), text=7, extras=(Extra("reference", 6, "last", grid=(2, 3)),))
    >>> layout.reference_slices, layout.extra
    ([slice(31, 37, None)], 0)
    """

    name: str
    tokens: int
    place: Place
    grid: tuple[int, ...] | None = None

    @property
    def is_reference(self) -> bool:
        """Whether these tokens are a reference image."""
        return self.name == REFERENCE and self.tokens > 0


@dataclass(frozen=True)
class TokenLayout:
    """Where image and text tokens are in an attention call.

    Attributes:
        grid: image tokens as (rows, cols), or (frames, rows, cols) for video.
        text: number of text positions, including start, end and padding tokens and anything else that the model puts
            into its text stream.
        order: which of the two comes first.
        extras: tokens that take part in the softmax but are neither image nor text: reference images, and others.
        scope: which queries attend to which keys. "joint": all to all; "image-queries": the image to all; "cross": the
            image to the text.

    Raises:
        ValueError: a size or a choice is not one of these.

    >>> from mmdit_probe import Region, TokenLayout
    >>> layout = TokenLayout(grid=(4, 6), text=7)
    >>> layout.tokens, layout.image_slice, layout.text_slice
    (31, slice(0, 24, None), slice(24, 31, None))
    >>> round(layout.uniform(Region.I2T), 3)  # the share of text if every query attended to all keys alike: 7 / 31
    0.226
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
        if any(extra.tokens < 0 or extra.place not in _PLACES for extra in self.extras):
            raise ValueError(f"TokenLayout: extras need 0 or more tokens, first, between or last, got {self.extras}")
        for extra in self.extras:
            grid = extra.grid
            if grid is not None and (len(grid) not in (2, 3) or min(grid) < 1 or math.prod(grid) != extra.tokens):
                raise ValueError(
                    f"TokenLayout: the grid of {extra.tokens} {extra.name} tokens must be (rows, cols) or "
                    f"(frames, rows, cols) with as many places, got {grid}"
                )

    @property
    def image(self) -> int:
        """Number of image tokens."""
        return math.prod(self.grid)

    @property
    def extra(self) -> int:
        """Number of tokens that are neither image, nor text, nor reference images."""
        return sum(extra.tokens for extra in self.extras if not extra.is_reference)

    @property
    def references(self) -> tuple[Extra, ...]:
        """The reference images, in the order in which their tokens stand."""
        found = [extra for extra in self.extras if extra.is_reference]
        return tuple(sorted(found, key=lambda extra: _PLACES.index(extra.place)))

    @property
    def reference(self) -> int:
        """Number of tokens of all reference images."""
        return sum(extra.tokens for extra in self.references)

    @property
    def tokens(self) -> int:
        """Number of all tokens."""
        return self.image + self.text + self.reference + self.extra

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
    def reference_slices(self) -> list[slice]:
        """Positions of each reference image's tokens among all tokens, in the order of `references`."""
        return self._spans()["reference"]

    @property
    def image_queries(self) -> slice:
        """Positions of the image tokens among a call's queries."""
        return self.image_slice if self.scope == "joint" else slice(0, self.image)

    @property
    def text_queries(self) -> slice:
        """Positions of the text tokens among a call's queries; empty if text does not attend."""
        return self.text_slice if self.scope == "joint" else _NOWHERE

    @property
    def reference_queries(self) -> list[slice]:
        """Positions of each reference image among a call's queries; none if references do not attend."""
        return self.reference_slices if self.scope == "joint" else []

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
        """Positions among a call's keys of the tokens that are neither image, nor text, nor reference images."""
        return [] if self.scope == "cross" else self._spans()["extra"]

    def keys_named(self, stream: str) -> list[slice]:
        """Positions among a call's keys of "image", "text" or extra tokens of that name, such as "reference"; may be empty."""
        if stream in ("image", "text"):
            return [self.image_keys if stream == "image" else self.text_keys]
        streams = [("image", self.image), ("text", self.text)][:: 1 if self.order == "image-text" else -1]
        named = {
            place: [(e.name, e.tokens) for e in self.extras if e.place == place]
            for place in ("first", "between", "last")
        }
        runs = [*named["first"], streams[0], *named["between"], streams[1], *named["last"]]
        starts = [sum(size for _, size in runs[:number]) for number in range(len(runs))]
        found = [slice(start, start + size) for start, (name, size) in zip(starts, runs, strict=True) if name == stream]
        return [] if self.scope == "cross" else found

    @property
    def reference_keys(self) -> list[slice]:
        """Positions of each reference image among a call's keys; none in plain cross-attention."""
        return [] if self.scope == "cross" else self.reference_slices

    def queries_of(self, stream: TokenStream) -> list[slice]:
        """Positions of a stream's tokens among a call's queries: one slice, or one for each reference image."""
        of = {TokenStream.IMAGE: [self.image_queries], TokenStream.TEXT: [self.text_queries]}
        return of.get(stream, self.reference_queries)

    def keys_of(self, stream: TokenStream) -> list[slice]:
        """Positions of a stream's tokens among a call's keys: one slice, or one for each reference image."""
        of = {TokenStream.IMAGE: [self.image_keys], TokenStream.TEXT: [self.text_keys]}
        return of.get(stream, self.reference_keys)

    @property
    def regions(self) -> frozenset[Region]:
        """The regions that exist in this model."""
        asking = set(TokenStream) if self.scope == "joint" else {TokenStream.IMAGE}
        answering = {TokenStream.TEXT} if self.scope == "cross" else set(TokenStream)
        if not self.references:
            asking, answering = asking - {TokenStream.REFERENCE}, answering - {TokenStream.REFERENCE}
        return frozenset(region for region in Region if region.asking in asking and region.answering in answering)

    @property
    def listed_regions(self) -> tuple[Region, ...]:
        """The regions that a record lists, in order: those with references only if there are any."""
        return REGIONS if Region.I2R in self.regions else TEXT_AND_IMAGE

    @property
    def grid_dims(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        return ("row", "col") if len(self.grid) == 2 else ("frame", "row", "col")

    def uniform(self, region: Region) -> float:
        """The region's mass if every query attended to all keys alike, in [0, 1]; NaN if the model has no such region."""
        if region not in self.regions:
            return math.nan
        sizes = {TokenStream.IMAGE: self.image, TokenStream.TEXT: self.text, TokenStream.REFERENCE: self.reference}
        return sizes[region.answering] / self.keys

    def _spans(self) -> dict[str, list[slice]]:
        """Positions of each kind of token, in order."""
        runs = [*self._extra("first"), *self._streams(), *self._extra("last")]
        spans: dict[str, list[slice]] = {"image": [], "text": [], "reference": [], "extra": []}
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
        here = [extra for extra in self.extras if extra.place == place]
        return [("reference" if extra.is_reference else "extra", extra.tokens) for extra in here]
