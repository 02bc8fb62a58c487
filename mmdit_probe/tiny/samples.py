"""Sample images of an embedded model, and which of their prompts' facts the scene reader finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..configs import GenerationConfig
from ..datasets.scenes import GROUNDS, SIZE
from ..families import Pipeline
from ..metrics.scene_reader import Fact, SceneReader, prompt_facts
from ..studies.image_grid import generate_batch
from .recipe import Recipe


def generate(pipe: Pipeline, prompts: Sequence[str], seed: int, recipe: Recipe, batch: int = 10) -> np.ndarray:
    """(prompts, 64, 64, 3) uint8 images, 28 steps, with the recipe's guidance and text positions; a seed for all of them."""
    config = GenerationConfig(
        guidance_scale=recipe.guidance, max_sequence_length=recipe.text_positions, height=SIZE, width=SIZE
    )
    starts = tqdm(range(0, len(prompts), batch), "sample images")
    return np.concatenate([generate_batch(pipe, prompts[i : i + batch], seed, config) for i in starts])


def read_samples(prompts: Sequence[str], images: np.ndarray) -> dict[str, float]:
    """Shares of the prompts' grounds, shapes and colored shapes that the scene reader finds in their images."""
    names = ("grounds", "shapes", "colored shapes")
    hits, stated = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for prompt, found in zip(prompts, SceneReader.load().read(images), strict=True):
        facts = prompt_facts(prompt)
        grounds = {fact for fact in facts if fact[0] in GROUNDS}
        colored: set[Fact] = {fact for fact in facts if len(fact) == 2}
        shapes: set[Fact] = {(fact[1],) for fact in colored}
        for name, kind in zip(names, (grounds, shapes, colored), strict=True):
            hits[name] += len(kind & found)
            stated[name] += len(kind)
    return {name: hits[name] / stated[name] for name in names} | {"count": len(prompts)}


def sample_sheet(images: np.ndarray, path: Path, across: int = 10) -> None:
    """Save images in rows of ``across``, enlarged twice."""
    rows = [np.concatenate(list(images[i : i + across]), 1) for i in range(0, len(images), across)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)
