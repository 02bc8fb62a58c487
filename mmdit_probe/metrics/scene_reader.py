"""Reads scenes: which of a prompt's grounds, shapes and colors an image shows.

The reader is a small convolutional network trained on scenes. Its accuracy on held-out scenes is in the model card of
tiny-sd3 (a test checks that it is at least 95%).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..datasets.scenes import GROUNDS, THINGS, Scene
from ..datasets.shapes import COLORS
from ..pipelines.forward import to_pixels
from ..pipelines.loading import embedded_folder
from ..utils.memory import run_in_batches

_COLOR_NAMES = tuple(COLORS)
AT_ONCE = 64
"""Images read together."""
Fact = tuple[str, ...]
"""``("grass",)`` is a ground, ``("star",)`` a shape of any color, ``("red", "star")`` a shape with its color."""


class ReaderNetwork(nn.Module):
    """From (n, 3, 64, 64) pixels in [-1, 1] to logits: (n, 8) of grounds, (n, 8, 9) of each shape's absence or color."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out, stride in ((width // 2, 1), (width, 2), (2 * width, 2), (2 * width, 2), (3 * width, 1)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.trunk = nn.Sequential(*layers)
        self.grounds = nn.Linear(2 * channels, len(GROUNDS))
        self.things = nn.Linear(2 * channels, len(THINGS) * (1 + len(_COLOR_NAMES)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(pixels)
        pooled = torch.cat([features.amax((-1, -2)), features.mean((-1, -2))], -1)
        return self.grounds(pooled), self.things(pooled).unflatten(-1, (len(THINGS), -1))


class SceneReader:
    """Reads the facts that images show: their grounds, and their shapes with their colors."""

    def __init__(self, network: ReaderNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, folder: Path | None = None) -> SceneReader:
        """The embedded reader, or one from another folder."""
        network = ReaderNetwork()
        file = (folder or embedded_folder().parent / "scene-reader") / "model.safetensors"
        network.load_state_dict({name: weight.float() for name, weight in load_file(file).items()})
        return cls(network)

    def read(self, images: Sequence[np.ndarray] | np.ndarray) -> list[frozenset[Fact]]:
        """The facts of each of several (64, 64, 3) uint8 RGB images."""
        return run_in_batches(self._read, list(images), AT_ONCE)[0]

    @torch.no_grad()
    def _read(self, images: Sequence[np.ndarray]) -> list[frozenset[Fact]]:
        grounds, things = self.network(to_pixels(images, "cpu"))
        found = []
        for ground, thing in zip(grounds > 0, things.argmax(-1), strict=True):
            facts: set[Fact] = {(GROUNDS[i],) for i in ground.nonzero().flatten()}
            for shape, color in zip(THINGS, thing.tolist(), strict=True):
                if color:
                    facts |= {(shape,), (_COLOR_NAMES[color - 1], shape)}
            found.append(frozenset(facts))
        return found

    def fact_share(self, images: Sequence[np.ndarray] | np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """(images,) share of each prompt's facts that its image shows, in [0, 1]; NaN for a prompt without facts."""
        stated = [prompt_facts(prompt) for prompt in prompts]
        shares = [len(s & f) / len(s) if s else np.nan for s, f in zip(stated, self.read(images), strict=True)]
        return np.array(shares)


def scene_facts(scene: Scene) -> frozenset[Fact]:
    """All facts of a scene."""
    shapes = {(t.shape,) for t in scene.things} | {(t.color, t.shape) for t in scene.things}
    return frozenset({(ground,) for ground in scene.grounds} | shapes)


def prompt_facts(prompt: str) -> frozenset[Fact]:
    """The facts that a prompt states: each ground, and each shape, with its color if one stands before it."""
    text = " ".join(prompt.lower().split())
    facts: set[Fact] = {(ground,) for ground in GROUNDS if re.search(rf"\b{ground}\b", text)}
    for shape in THINGS:
        for match in re.finditer(rf"(?:\b({'|'.join(_COLOR_NAMES)}) )?\b{shape}\b", text):
            facts.add((match[1], shape) if match[1] else (shape,))
    return frozenset(facts)
