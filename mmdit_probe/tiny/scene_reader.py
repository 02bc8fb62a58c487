"""Training the scene reader, and measuring its accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from ..datasets.scenes import GROUNDS, THINGS, Scene, scenes
from ..datasets.shapes import COLORS
from ..metrics.scene_reader import ReaderNetwork, SceneReader, prompt_facts, scene_facts
from .autoencoder import to_model
from .recipe import Recipe


def targets(chosen: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Targets of scenes: grounds (n, 8) in {0, 1}; shapes (n, 8), 0 if absent, else 1 + the index of the color."""
    grounds, things = torch.zeros(len(chosen), len(GROUNDS)), torch.zeros(len(chosen), len(THINGS), dtype=torch.long)
    for i, scene in enumerate(chosen):
        for ground in scene.grounds:
            grounds[i, GROUNDS.index(ground)] = 1
        for thing in scene.things:
            things[i, THINGS.index(thing.shape)] = 1 + list(COLORS).index(thing.color)
    return grounds, things


def train_reader(vae: AutoencoderKL, recipe: Recipe, device: torch.device) -> ReaderNetwork:
    """Fit the reader to training scenes; every second image is passed through the autoencoder, like generated ones."""
    chosen = list(tqdm(scenes("train", recipe.reader_scenes), "drawing scenes", recipe.reader_scenes, mininterval=5))
    images = np.stack([scene.image for scene in chosen])
    images[1::2] = _decoded(vae, images[1::2], device)
    grounds, things = (target.to(device) for target in targets(chosen))
    torch.manual_seed(recipe.seed)
    network = ReaderNetwork().to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    bar = tqdm(range(recipe.reader_steps), "scene reader", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / recipe.reader_steps))
        rows = torch.randint(len(images), (recipe.reader_batch,), generator=torch.Generator().manual_seed(step))
        pixels = to_model(images[rows.numpy()], device)
        ground, thing = network(pixels + 0.05 * torch.randn_like(pixels))
        loss = functional.binary_cross_entropy_with_logits(ground, grounds[rows])
        loss = loss + functional.cross_entropy(thing.flatten(0, 1), things[rows].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return network.eval()


def save_reader(network: ReaderNetwork, folder: Path) -> None:
    """Save the reader in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {n: weight.cpu().half().contiguous() for n, weight in network.state_dict().items()},
        folder / "model.safetensors",
    )


@torch.no_grad()
def _decoded(vae: AutoencoderKL, images: np.ndarray, device: torch.device) -> np.ndarray:
    parts = []
    for start in tqdm(range(0, len(images), 64), "autoencoding", mininterval=5):
        latent = vae.encode(to_model(images[start : start + 64], device)).latent_dist.mean
        pixels = vae.decode(latent).sample.clamp(-1, 1).add(1).mul(127.5).round().byte()
        parts.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def reader_accuracy(reader: SceneReader, count: int = 500) -> dict[str, float]:
    """Accuracy on ``count`` test scenes, each number in [0, 1].

    ``recall`` and ``precision`` are of facts, ``whole_scenes`` is the share of scenes read without an error, and
    ``own_sentence`` the mean scene metric of the scenes' own sentences.
    """
    chosen = list(scenes("test", count))
    read = reader.read([scene.image for scene in chosen])
    true = [scene_facts(scene) for scene in chosen]
    hits = sum(len(r & t) for r, t in zip(read, true, strict=True))
    stated = reader.fact_share([scene.image for scene in chosen], [scene.sentence() for scene in chosen])
    kept = [prompt_facts(scene.sentence()) <= facts for scene, facts in zip(chosen, true, strict=True)]
    return {
        "recall": hits / sum(map(len, true)),
        "precision": hits / sum(map(len, read)),
        "whole_scenes": float(np.mean([r == t for r, t in zip(read, true, strict=True)])),
        "own_sentence": float(np.mean(stated[kept])),
        "count": count,
    }
