"""Synthetic scenes: shapes (things) on textured grounds (stuff), with captions and exact masks.

A scene is a pure function of ``(split, index)``: the same pair gives the same image, labels and captions on every machine,
and splits never share a random stream. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .shapes import COLORS, SHAPES, TYPICAL_COLOR, distance, draw
from .textures import TEXTURES, paint

GROUNDS = tuple(TEXTURES)
THINGS = tuple(SHAPES)
CLASSES = GROUNDS + THINGS
"""The 16 class names; a label map holds indices into this tuple."""
SIZE = 64
"""Width and height of a scene in pixels."""

Split = Literal["train", "val", "test"]
_SEED = 20250918


@dataclass(frozen=True)
class Thing:
    """One shape: its name, color, center (x, y) in pixels and radius in pixels."""

    shape: str
    color: str
    center: tuple[float, float]
    radius: float

    def relation_to(self, other: Thing) -> str:
        """Where it stands, seen from the other: left of, right of, above or below."""
        across, down = self.center[0] - other.center[0], self.center[1] - other.center[1]
        if abs(across) >= abs(down):
            return "left of" if across < 0 else "right of"
        return "above" if down < 0 else "below"


@dataclass(frozen=True)
class Parts:
    """What a scene is drawn from.

    Attributes:
        canvas: (64, 64, 3) the painted grounds, in [0, 1].
        labels: (64, 64) uint8 indices of the grounds into `CLASSES`.
        grounds: the lower ground and, if there are two, the upper one.
        things: the shapes, in the order of drawing.
    """

    canvas: np.ndarray
    labels: np.ndarray
    grounds: tuple[str, ...]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Scene:
    """An image, its exact label map, and a list of what it shows.

    Attributes:
        split: train, val or test.
        index: the scene's number in the split.
        image: (64, 64, 3) uint8 RGB.
        labels: (64, 64) uint8 indices into `CLASSES`.
        grounds: the lower ground and, if there are two, the upper one.
        things: the shapes, in the order of drawing.
    """

    split: str
    index: int
    image: np.ndarray
    labels: np.ndarray
    grounds: tuple[str, ...]
    things: tuple[Thing, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes with at least one visible pixel, in label order."""
        return tuple(CLASSES[i] for i in np.unique(self.labels))

    def class_list(self, rng: np.random.Generator | None = None) -> str:
        """The class names joined by spaces, in label order, or shuffled by ``rng``."""
        names = list(self.classes)
        if rng is not None:
            rng.shuffle(names)
        return " ".join(names)

    def sentence(self, rng: np.random.Generator | None = None) -> str:
        """A sentence about the scene; ``rng`` varies the wording, None gives the most complete one."""
        ground = self._ground_phrase(rng)
        if not self.things:
            return ground
        return f"{self._thing_phrase(rng)} on {ground}"

    def caption(self, variant: int = 0) -> str:
        """A training caption: 45% sentences, 45% shuffled class lists, 10% empty."""
        rng = stream(self.split, self.index, purpose=1 + variant)
        draw_ = rng.random()
        if draw_ < 0.45:
            return self.sentence(rng)
        return self.class_list(rng) if draw_ < 0.9 else ""

    def _ground_phrase(self, rng: np.random.Generator | None) -> str:
        if len(self.grounds) == 1:
            return self.grounds[0]
        lower, upper = self.grounds
        return f"{upper} above {lower}" if rng is not None and rng.random() < 0.5 else f"{lower} under {upper}"

    def _thing_phrase(self, rng: np.random.Generator | None) -> str:
        things = list(self.things)
        if rng is not None:
            rng.shuffle(things)
        named = [self._name(thing, rng) for thing in things]
        if len(things) == 2 and (rng is None or rng.random() < 0.5):
            return f"{named[0]} {things[0].relation_to(things[1])} {named[1]}"
        return " and ".join(named)

    @staticmethod
    def _name(thing: Thing, rng: np.random.Generator | None) -> str:
        with_color = rng is None or rng.random() < 0.8
        words = f"{thing.color} {thing.shape}" if with_color else thing.shape
        return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def stream(split: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The random numbers of a scene for one purpose: 0 draws it, others vary what is made of it."""
    return np.random.default_rng([_SEED, get_args(Split).index(split), index, purpose])


def _grounds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    first, second = rng.choice(len(GROUNDS), 2, replace=False)
    lower = paint(GROUNDS[first], SIZE, rng)
    labels = np.full((SIZE, SIZE), first, np.uint8)
    if rng.random() < 0.5:
        return lower, labels, (GROUNDS[first],)
    upper = paint(GROUNDS[second], SIZE, rng)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    height, slope, phase = rng.uniform(22, 42), rng.uniform(-0.1, 0.1), rng.uniform(0, 2 * np.pi)
    above = y < height + slope * (x - SIZE / 2) + 1.5 * np.sin(0.15 * x + phase)
    labels[above] = second
    return np.where(above[..., None], upper, lower), labels, (GROUNDS[first], GROUNDS[second])


def _place_things(rng: np.random.Generator) -> tuple[Thing, ...]:
    things: list[Thing] = []
    shapes = rng.choice(len(THINGS), rng.choice(4, p=[0.08, 0.40, 0.40, 0.12]), replace=False)
    for shape in (THINGS[i] for i in shapes):
        color = TYPICAL_COLOR[shape] if rng.random() < 0.6 else str(rng.choice(list(COLORS)))
        for _ in range(20):  # a thing that does not fit after 20 tries is left out
            radius = rng.uniform(13.0, 19.0) if len(shapes) < 3 else rng.uniform(11.0, 14.0)
            x, y = rng.uniform(radius, SIZE - radius, 2)
            if all(np.hypot(x - t.center[0], y - t.center[1]) > radius + t.radius for t in things):
                things.append(Thing(shape, color, (float(x), float(y)), float(radius)))
                break
    return tuple(things)


def scene(split: Split, index: int) -> Scene:
    """The scene ``index`` (0, 1, ...) of a split, "train", "val" or "test".

    >>> drawn = scene("test", 0)
    >>> drawn.sentence(), drawn.classes
    ('a blue square on lava under sand', ('sand', 'lava', 'square'))
    >>> drawn.image.shape, drawn.labels.shape
    ((64, 64, 3), (64, 64))
    """
    if split not in get_args(Split):
        raise ValueError(f"scene: split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if index < 0:
        raise ValueError(f"scene: index must be 0 or more, got {index}")
    return drawn(split, index, parts_of(split, index))


def parts_of(split: str, index: int) -> Parts:
    """What the scene is drawn from."""
    rng = stream(split, index)
    canvas, labels, grounds = _grounds(rng)
    return Parts(canvas, labels, grounds, _place_things(rng))


def drawn(split: str, index: int, parts: Parts) -> Scene:
    """The scene that has these parts."""
    canvas, labels = parts.canvas, parts.labels.copy()
    for thing in parts.things:
        signed = distance(thing.shape, thing.center, thing.radius, SIZE)
        canvas = draw(canvas, signed, thing.color)
        labels[signed < 0] = CLASSES.index(thing.shape)
    image = np.clip(np.rint(canvas * 255), 0, 255).astype(np.uint8)
    return Scene(split, index, image, labels, parts.grounds, parts.things)


def scenes(split: Split, count: int, start: int = 0) -> Iterator[Scene]:
    """``count`` scenes of a split, starting with number ``start``."""
    return (scene(split, index) for index in range(start, start + count))
