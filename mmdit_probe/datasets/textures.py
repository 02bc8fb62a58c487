"""The eight textured grounds of the synthetic scenes.

Each texture is a function ``(rows, cols, rng) -> (..., 3)`` that returns RGB in [0, 1]. Phases, spacings and a small color cast
are random, so that a ground is recognized by its look and never by a fixed pixel pattern.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Texture = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _blend(low: tuple[float, float, float], high: tuple[float, float, float], weight: np.ndarray) -> np.ndarray:
    weight = weight[..., None]
    return np.asarray(low) * (1 - weight) + np.asarray(high) * weight


def _wave(phase: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(phase)


def _phases(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(0, 2 * np.pi, count)


def grass(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slanted blades of two greens."""
    p, q = _phases(rng, 2)
    blades = _wave(1.3 * cols + 0.35 * rows + p + 1.2 * np.sin(0.45 * rows + q))
    return _blend((0.12, 0.38, 0.10), (0.38, 0.68, 0.22), blades)


def sand(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale, long and shallow ripples."""
    p, q = _phases(rng, 2)
    ripples = _wave(0.55 * rows + 0.9 * np.sin(0.16 * cols + p) + q)
    return _blend((0.80, 0.68, 0.44), (0.93, 0.84, 0.62), ripples)


def water(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blue waves with bright crests."""
    p, q = _phases(rng, 2)
    crests = _wave(0.85 * rows + 1.1 * np.sin(0.5 * cols + p) + q) ** 3
    return _blend((0.08, 0.30, 0.62), (0.55, 0.80, 0.95), crests)


def snow(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nearly white with soft blue shadows."""
    p, q, r = _phases(rng, 3)
    drifts = _wave(0.22 * rows + p) * _wave(0.19 * cols + 0.1 * rows + q) + 0.15 * _wave(0.9 * cols + r)
    return _blend((0.97, 0.98, 1.00), (0.76, 0.83, 0.93), np.clip(drifts, 0, 1))


def lava(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing cracks in a dark crust."""
    p, q = _phases(rng, 2)
    field = np.sin(0.42 * cols + p + np.sin(0.33 * rows)) + np.sin(0.40 * rows + q + np.sin(0.36 * cols))
    glow = np.exp(-3.0 * field**2)
    return _blend((0.20, 0.05, 0.05), (1.00, 0.52, 0.08), glow)


def brick_wall(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bricks of 16 x 8 px in running bond with pale mortar."""
    down, across = rng.uniform(0, 16, 2)
    course = np.floor((rows + down) / 8)
    in_row = (rows + down) % 8
    in_col = (cols + across + 8 * (course % 2)) % 16
    mortar = np.clip(np.maximum(2.0 - in_row, 2.0 - in_col), 0, 1)
    return _blend((0.62, 0.24, 0.18), (0.84, 0.78, 0.72), mortar)


def night_sky(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark blue with one round star in each cell of a jittered 10 px grid."""
    cells = np.stack(np.broadcast_arrays(rows // 10, cols // 10), -1).astype(int)
    jitter = rng.uniform(2.5, 7.5, (cells[..., 0].max() + 1, cells[..., 1].max() + 1, 2))
    center = jitter[cells[..., 0], cells[..., 1]]
    distance = (rows % 10 - center[..., 0]) ** 2 + (cols % 10 - center[..., 1]) ** 2
    return _blend((0.04, 0.05, 0.18), (0.95, 0.95, 0.80), np.exp(-distance / 1.6))


def wood_floor(rows: np.ndarray, cols: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vertical planks 11 px wide with a little grain."""
    (p,) = _phases(rng, 1)
    across = cols + rng.uniform(0, 11)
    seam = np.clip(1.5 - across % 11, 0, 1)
    grain = 0.35 * _wave(0.5 * rows + p + 2.4 * np.floor(across / 11))
    return _blend((0.66, 0.45, 0.24), (0.32, 0.19, 0.09), np.clip(seam + grain, 0, 1))


TEXTURES: dict[str, Texture] = {
    "grass": grass,
    "sand": sand,
    "water": water,
    "snow": snow,
    "lava": lava,
    "brick wall": brick_wall,
    "night sky": night_sky,
    "wood floor": wood_floor,
}


def paint(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A ground (size, size, 3), RGB in [0, 1], with a random color cast of a few percent."""
    rows, cols = np.mgrid[0:size, 0:size].astype(float)
    cast = rng.normal(0, 0.025, 3)
    return np.clip(TEXTURES[name](rows, cols, rng) + cast, 0, 1)
