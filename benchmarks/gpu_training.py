"""tiny-sd3's training for as long as there is time: for `benchmarks.gpu_day`.

The stages and the recipe are those of `mmdit_probe.tiny.train`; every checkpoint of the transformer is written, and at the end
the averaged weights in fp16, in files of at most 15 MB that are easily brought home.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmdit_probe.tiny.autoencoder import encode_all
from mmdit_probe.tiny.corpus import make_corpus
from mmdit_probe.tiny.flow import FlowTrainer, token_ids
from mmdit_probe.tiny.parts import make_tokenizers
from mmdit_probe.tiny.recipe import Recipe
from mmdit_probe.tiny.train import fit_autoencoder

PIECE = 15_000_000
"""Bytes of a file of weights."""
SMALL = {"scenes": 64, "samples": 256, "autoencoder_steps": 4, "batch": 8}
MANY = {"scenes": 40_000, "samples": 4_000_000, "autoencoder_steps": 4_500}
"""Fewer scenes than the package's recipe, as drawing them is the CPU's work; more samples than there is time for."""


def train(work: Path, device: str, small: bool, seconds: float) -> dict[str, Any]:
    """Train for so many seconds from the start, or go on from the checkpoint in ``work``; how far it came."""
    start = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    recipe, place = replace(Recipe(), **(SMALL if small else MANY)), torch.device(device)
    corpus = make_corpus(recipe.scenes, recipe.caption_variants, work)
    print(f"{len(corpus.images)} scenes drawn: {time.monotonic() - start:.0f} s", flush=True)
    vae = fit_autoencoder(corpus, recipe, work, place)
    print(f"autoencoder: {time.monotonic() - start:.0f} s", flush=True)
    file = work / "latents.pt"
    if not file.exists():
        torch.save(encode_all(vae, corpus.images, place), file)
    latents = torch.load(file, weights_only=True)
    ids = token_ids(corpus.captions, make_tokenizers(recipe))
    trainer = FlowTrainer(latents, ids, recipe, work, place)
    for step in trainer.run(save_every=8 if small else 500):
        rate = trainer.step * recipe.batch / max(trainer.seconds, 1e-9)
        print(f"step {step}: {step * recipe.batch} samples, {rate:.0f} a second", flush=True)
        if time.monotonic() - start > seconds:
            break
    names = [name for name, _ in trainer.model.named_parameters()]
    averaged = {name: weight.half().cpu().contiguous() for name, weight in zip(names, trainer.ema, strict=True)}
    return {"steps": trainer.step, "samples": trainer.step * recipe.batch, "files": pieces(averaged, work)}


def pieces(weights: dict[str, torch.Tensor], work: Path) -> list[str]:
    """Write weights to work/averaged-N.safetensors; the files' names."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    for name, weight in weights.items():
        if groups[-1] and sum(w.numel() * w.element_size() for w in [*groups[-1].values(), weight]) > PIECE:
            groups.append({})
        groups[-1][name] = weight
    files = []
    for number, group in enumerate(groups):
        files.append(f"averaged-{number}.safetensors")
        save_file(group, work / files[-1])
    return files
