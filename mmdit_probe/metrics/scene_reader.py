"""An exact score for scenes: which of the prompt's grounds, shapes and colors are in the image.

The reader is a small convolutional network trained on scenes; its own accuracy on held-out scenes is in the model card
of tiny-sd3 (and at least 95%, which a test checks).
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
"""Images that are read together."""
Fact = tuple[str, ...]
"""``("grass",)`` a ground, ``("star",)`` a shape of any color, ``("red", "star")`` a shape and its color."""


class ReaderNetwork(nn.Module):
    """64 x 64 px to 8 ground logits and, for each of 8 shapes, logits of absent and of 8 colors."""

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
    """Reads the facts of images: the grounds, and the shapes with their colors."""

    def __init__(self, network: ReaderNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def load(cls, folder: Path | None = None) -> SceneReader:
        """The shipped reader, or one of another folder."""
        network = ReaderNetwork()
        file = (folder or embedded_folder().parent / "scene-reader") / "model.safetensors"
        network.load_state_dict({name: weight.float() for name, weight in load_file(file).items()})
        return cls(network)

    def read(self, images: Sequence[np.ndarray] | np.ndarray) -> list[frozenset[Fact]]:
        """The facts of uint8 RGB images of 64 x 64 px."""
        return run_in_batches(self._read, images, AT_ONCE)[0]  # type: ignore[arg-type]

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

    def score(self, images: Sequence[np.ndarray] | np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """WorkerShare of each prompt's facts that its image shows, in [0, 1]; NaN for a prompt that states none."""
        stated = [prompt_facts(prompt) for prompt in prompts]
        shares = [len(s & f) / len(s) if s else np.nan for s, f in zip(stated, self.read(images), strict=True)]
        return np.array(shares)


def scene_facts(scene: Scene) -> frozenset[Fact]:
    """All facts of a scene."""
    shapes = {(t.shape,) for t in scene.things} | {(t.color, t.shape) for t in scene.things}
    return frozenset({(ground,) for ground in scene.grounds} | shapes)


def prompt_facts(prompt: str) -> frozenset[Fact]:
    """What a prompt states: each ground, and each shape with its color where one stands before it."""
    text = " ".join(prompt.lower().split())
    facts: set[Fact] = {(ground,) for ground in GROUNDS if re.search(rf"\b{ground}\b", text)}
    for shape in THINGS:
        for match in re.finditer(rf"(?:\b({'|'.join(_COLOR_NAMES)}) )?\b{shape}\b", text):
            facts.add((match[1], shape) if match[1] else (shape,))
    return frozenset(facts)
