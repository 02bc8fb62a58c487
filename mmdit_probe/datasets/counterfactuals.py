"""Pairs of scenes that differ in one fact: a thing's color or shape, the ground, or which of two things stands where.

Because scenes are drawn by a program, all else is the same to the pixel: what a model does otherwise for the second scene,
or for its sentence, it does because of that fact. A pair is a pure function of ``(fact, split, index)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from .scenes import CLASSES, GROUNDS, SIZE, THINGS, Parts, Scene, Split, Thing, drawn, parts_of, stream
from .shapes import COLORS
from .textures import paint

Fact = Literal["color", "shape", "ground", "place"]
FACTS: tuple[Fact, ...] = get_args(Fact)
_PURPOSE = 1000
"""The random streams of what is put in a fact's place; scenes and captions use lower numbers."""


@dataclass(frozen=True)
class Counterfactual:
    """Two scenes that differ in one fact.

    Attributes:
        fact: color and shape: of the first thing; ground: the lower one; place: the two things have changed places.
        before, after: the scenes, each with its image, labels and sentence.
        was, becomes: the word that changes in the sentence, such as "red" and "blue"; for place, the relation of the first
            thing to the second, such as "left of" and "right of".
    """

    fact: Fact
    before: Scene
    after: Scene
    was: str
    becomes: str

    @property
    def prompts(self) -> tuple[str, str]:
        """The most complete sentence about each scene; they differ in that word, and in the article before it."""
        return self.before.sentence(), self.after.sentence()


def counterfactual(fact: Fact, split: Split, index: int) -> Counterfactual | None:
    """The pair that begins with ``scene(split, index)``; None if that scene does not have the fact.

    Color and shape need a thing, place exactly two, since only then the sentence says where they stand.

    >>> pair = counterfactual("color", "test", 0)
    >>> pair.was, pair.becomes
    ('blue', 'green')
    >>> pair.prompts
    ('a blue square on lava under sand', 'a green square on lava under sand')
    """
    if fact not in FACTS:
        raise ValueError(f"counterfactual: fact must be one of {', '.join(FACTS)}, got {fact!r}")
    parts = parts_of(split, index)
    things = len(parts.things)
    if not {"ground": True, "place": things == 2}.get(fact, things > 0):
        return None
    rng = stream(split, index, purpose=_PURPOSE + FACTS.index(fact))
    changed, was, becomes = _CHANGES[fact](parts, rng)
    return Counterfactual(fact, drawn(split, index, parts), drawn(split, index, changed), was, becomes)


def counterfactuals(fact: Fact, split: Split, count: int, start: int = 0) -> Iterator[Counterfactual]:
    """``count`` pairs of a split, from scene number ``start`` on; scenes that do not have the fact are passed over."""
    found = (counterfactual(fact, split, index) for index in itertools.count(start))
    return itertools.islice((pair for pair in found if pair is not None), count)


def _other(rng: np.random.Generator, known: tuple[str, ...], taken: tuple[str, ...]) -> str:
    return str(rng.choice([name for name in known if name not in taken]))


def _color(parts: Parts, rng: np.random.Generator) -> tuple[Parts, str, str]:
    first, *others = parts.things
    color = _other(rng, tuple(COLORS), (first.color,))
    return replace(parts, things=(replace(first, color=color), *others)), first.color, color


def _shape(parts: Parts, rng: np.random.Generator) -> tuple[Parts, str, str]:
    first, *others = parts.things
    shape = _other(rng, THINGS, tuple(thing.shape for thing in parts.things))
    return replace(parts, things=(replace(first, shape=shape), *others)), first.shape, shape


def _ground(parts: Parts, rng: np.random.Generator) -> tuple[Parts, str, str]:
    """The lower ground is another one, painted where it was."""
    was, *upper = parts.grounds
    ground = _other(rng, GROUNDS, parts.grounds)
    there = parts.labels == CLASSES.index(was)
    canvas = np.where(there[..., None], paint(ground, SIZE, rng), parts.canvas)
    labels = np.where(there, np.uint8(CLASSES.index(ground)), parts.labels)
    return replace(parts, canvas=canvas, labels=labels, grounds=(ground, *upper)), was, ground


def _place(parts: Parts, rng: np.random.Generator) -> tuple[Parts, str, str]:
    """Each of the two things takes the other's center and radius, so that nothing is covered that was not."""
    first, second = parts.things
    swapped = (_at(first, second), _at(second, first))
    was, becomes = first.relation_to(second), swapped[0].relation_to(swapped[1])
    return replace(parts, things=swapped), was, becomes


def _at(thing: Thing, other: Thing) -> Thing:
    return replace(thing, center=other.center, radius=other.radius)


_CHANGES = {"color": _color, "shape": _shape, "ground": _ground, "place": _place}
