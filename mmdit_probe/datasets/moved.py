"""Pairs of scenes in which one thing has moved by a known number of pixels; all else is the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .scenes import CLASSES, SIZE, Scene, Split, Thing, drawn, parts_of, stream

STEP = 8
"""Things move by multiples of so many px, a token of tiny-sd3."""
_PURPOSE = 2000
"""The random stream of the displacement; scenes, captions and counterfactuals use lower numbers."""


@dataclass(frozen=True, eq=False)
class Moved:
    """Two scenes; in the second, the first thing of the first has moved.

    Attributes:
        before, after: the scenes, each with its image and labels.
        shift: how far, (down, across) in px.
        name: the thing's class.
    """

    before: Scene
    after: Scene
    shift: tuple[int, int]
    name: str

    def mask(self, scene: Scene) -> np.ndarray:
        """(64, 64) bool: the thing in one of the two scenes."""
        return scene.labels == CLASSES.index(self.name)


def moved(split: Split, index: int) -> Moved | None:
    """The pair that begins with ``scene(split, index)``; None if that scene has no thing, or none that can move.

    A pure function of ``(split, index)``. The thing stays whole, covers no other thing, and moves by whole multiples of `STEP`
    px down or across, never by none.

    >>> pair = moved("test", 0)
    >>> pair.name, pair.shift
    ('square', (0, -8))
    >>> inside = pair.mask(pair.before)
    >>> bool((np.roll(inside, pair.shift, (0, 1)) == pair.mask(pair.after)).all())
    True
    """
    parts = parts_of(split, index)
    if not parts.things:
        return None
    thing, *others = parts.things
    ways = range(-SIZE, SIZE + 1, STEP)
    places = [shift for shift in itertools.product(ways, ways) if _fits(thing, others, shift)]
    if not places:
        return None
    down, across = places[int(stream(split, index, purpose=_PURPOSE).integers(len(places)))]
    there = replace(parts, things=(_shifted(thing, (down, across)), *others))
    return Moved(drawn(split, index, parts), drawn(split, index, there), (down, across), thing.shape)


def moved_pairs(split: Split, count: int, start: int = 0) -> Iterator[Moved]:
    """``count`` pairs of a split, from scene number ``start`` on; scenes in which nothing can move are passed over."""
    found = (moved(split, index) for index in itertools.count(start))
    return itertools.islice((pair for pair in found if pair is not None), count)


def _shifted(thing: Thing, shift: tuple[int, int]) -> Thing:
    return replace(thing, center=(thing.center[0] + shift[1], thing.center[1] + shift[0]))


def _fits(thing: Thing, others: list[Thing], shift: tuple[int, int]) -> bool:
    """Whether the thing, moved, is another place, inside the image and off the others."""
    center, radius = _shifted(thing, shift).center, thing.radius
    inside = all(radius <= place <= SIZE - radius for place in center)
    free = all(
        np.hypot(center[0] - other.center[0], center[1] - other.center[1]) > radius + other.radius for other in others
    )
    return shift != (0, 0) and inside and free
