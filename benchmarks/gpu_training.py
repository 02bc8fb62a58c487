"""tiny-sd3's training for as long as there is time: for `benchmarks.gpu_day`.

The stages and the recipe are those of `mmdit_probe.tiny.train`; every checkpoint of the transformer is written, and
with it the averaged weights in fp16, in files of at most 15 MB that are easily brought home.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmdit_probe.storage.files import atomic_write
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


def train(work: Path, device: str, small: bool, seconds: float, out: Path) -> None:
    """Train for so many seconds, from the start or from the checkpoint in ``work``; weights and log go to ``out``."""
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
        samples, rate = step * recipe.batch, trainer.step * recipe.batch / max(trainer.seconds, 1e-9)
        print(f"step {step}: {samples} samples, {rate:.0f} a second", flush=True)
        save_averaged(trainer, work, out)
        if time.monotonic() - start > seconds:
            break


def save_averaged(trainer: FlowTrainer, work: Path, out: Path) -> None:
    """Write the averaged weights to ``out``/averaged-N.safetensors, and the log of the losses."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    names = [name for name, _ in trainer.model.named_parameters()]
    for name, average in zip(names, trainer.ema, strict=True):
        weight = average.half().cpu().contiguous()
        if groups[-1] and sum(w.numel() * w.element_size() for w in [*groups[-1].values(), weight]) > PIECE:
            groups.append({})
        groups[-1][name] = weight
    for number, group in enumerate(groups):
        with atomic_write(out / f"averaged-{number}.safetensors") as part:
            save_file(group, part)
    log = work / "flow.jsonl"
    if log.exists():
        shutil.copy(log, out / log.name)


if __name__ == "__main__":
    folder, place, is_small, limit, to = sys.argv[1:]
    train(Path(folder), place, bool(int(is_small)), float(limit), Path(to))
