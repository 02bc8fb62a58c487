"""How words' maps lie on the image, without labels: each function takes the maps of one layer (word, ..., row, col)."""

from __future__ import annotations

import numpy as np


def word_information(maps: np.ndarray) -> float:
    """What an image token's attention to the words says of its place, in nats, at least 0.

    The mean over positions p of ``sum_w a_w(p) ln(a_w(p) / mean(a_w))``, with the probabilities a of the joint softmax: a layer
    that gives the words no mass says nothing, nor does one that gives them the same everywhere. It is the part of the
    mutual information of position and attended key that falls on words.
    """
    flat = maps.reshape(len(maps), -1).astype(float)
    mean = flat.mean(1, keepdims=True)
    ratio = np.divide(flat, mean, out=np.ones_like(flat), where=flat > 0)
    return float((flat * np.log(ratio)).sum(0).mean())


def coherence(maps: np.ndarray) -> float:
    """Moran's I of maps (word, ..., row, col), mean over words: 1 for smooth regions, 0 for noise, -1 for a chessboard."""
    centered = maps - maps.mean(axis=tuple(range(1, maps.ndim)), keepdims=True)
    pairs = [
        (centered[..., :-1, :] * centered[..., 1:, :]).reshape(len(maps), -1),
        (centered[..., :-1] * centered[..., 1:]).reshape(len(maps), -1),
    ]
    between = np.concatenate(pairs, 1).mean(1)
    variance = (centered.reshape(len(maps), -1) ** 2).mean(1)
    return float(np.mean(between / np.maximum(variance, 1e-20)))


def selectivity(maps: np.ndarray) -> float:
    """1 minus the normalized entropy of each position's distribution over words, mean over positions: in [0, 1].

    Each word's map is first divided by its mean, so that a word with much attention everywhere does not count as a choice.
    """
    if len(maps) < 2:
        return 0.0
    flat = maps.reshape(len(maps), -1)
    flat = flat / np.maximum(flat.mean(1, keepdims=True), 1e-20)
    probs = flat / np.maximum(flat.sum(0), 1e-20)
    entropy = -(probs * np.log(np.maximum(probs, 1e-20))).sum(0)
    return float(1 - entropy.mean() / np.log(len(maps)))
