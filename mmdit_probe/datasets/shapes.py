"""The eight things of the synthetic scenes, as signed distance functions.

A shape is a function ``(x, y) -> d`` that spans about [-1, 1] in both coordinates: x to the right, y DOWN, d negative inside.
The coverage of a pixel follows from d, so that edges are anti-aliased; the exact mask is ``d < 0``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.12),
    "orange": (0.98, 0.55, 0.05),
    "yellow": (0.98, 0.90, 0.15),
    "green": (0.10, 0.60, 0.20),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.55, 0.15, 0.70),
    "pink": (0.98, 0.55, 0.75),
    "white": (0.97, 0.97, 0.97),
}


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a closed polygon with ``corners`` (n, 2)."""
    points = np.stack([x, y], -1)
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge, offset = b - a, points - a
        along = np.clip((offset @ edge) / (edge @ edge), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(offset - along[..., None] * edge, axis=-1))
        crosses = (a[1] > y) != (b[1] > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < a[0] + (y - a[1]) * edge[0] / edge[1])
    return np.where(inside, -nearest, nearest)


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.62) - 0.36


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, np.array([(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]))


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.45)
    return _polygon(x, y, np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1))


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    upright = np.maximum(np.abs(x) - 0.40, np.abs(y) - 0.98)
    lying = np.maximum(np.abs(x) - 0.98, np.abs(y) - 0.40)
    return np.minimum(upright, lying)


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    across = np.sin(t) ** 3
    up = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return _polygon(x, y, np.stack([across, -up - 0.08], -1))


def half_moon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.98, 0.70 - np.hypot(x - 0.55, y))


SHAPES: dict[str, Shape] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "half moon": half_moon,
}

TYPICAL_COLOR = dict(zip(SHAPES, ("red", "blue", "green", "yellow", "white", "orange", "pink", "purple"), strict=True))
"""The color of each shape in most scenes."""


def distance(name: str, center: tuple[float, float], radius: float, size: int) -> np.ndarray:
    """Signed distance (size, size) in px to a shape at ``center`` (x, y) with ``radius``, both in px."""
    y, x = np.mgrid[0:size, 0:size] + 0.5
    return radius * SHAPES[name]((x - center[0]) / radius, (y - center[1]) / radius)


def draw(canvas: np.ndarray, signed: np.ndarray, color: str) -> np.ndarray:
    """Paint a shape with a dark rim of 1.5 px over ``canvas`` (height, width, 3) in [0, 1]; returns a new canvas."""
    fill = np.asarray(COLORS[color])
    cover = np.clip(0.5 - signed, 0, 1)[..., None]
    core = np.clip(0.5 - (signed + 1.5), 0, 1)[..., None]
    return canvas * (1 - cover) + (0.25 * fill) * (cover - core) + fill * core
