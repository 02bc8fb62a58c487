"""Make tiny-sd3: ``python -m mmdit_probe.tiny.train --work DIR``.

Four stages, each resumed or skipped if its result is in the work folder: draw the scenes, fit the
autoencoder, train the transformer with its text encoders, train the tiny CLIP. No mask enters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from .autoencoder import encode_all, train_autoencoder
from .corpus import make_corpus
from .flow import FlowTrainer, token_ids
from .parts import make_autoencoder, make_tokenizers
from .recipe import Recipe


def _latents(work: Path, images, recipe: Recipe, device: torch.device) -> torch.Tensor:
    file = work / "latents.pt"
    if not file.exists():
        vae = _autoencoder(work, images, recipe, device)
        torch.save(encode_all(vae, images, device), file)
    return torch.load(file, weights_only=True)


def _autoencoder(work: Path, images, recipe: Recipe, device: torch.device):
    folder = work / "vae"
    if not folder.exists():
        train_autoencoder(make_autoencoder(recipe), images, recipe, device).save_pretrained(folder)
    return make_autoencoder(recipe).from_pretrained(folder).to(device)


def main(
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and intermediate results.")] = Path("tiny-work"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
) -> None:
    """Make tiny-sd3."""
    work.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe()
    corpus = make_corpus(recipe.scenes, recipe.caption_variants, work)
    latents = _latents(work, corpus.images, recipe, torch.device(device))
    ids = token_ids(corpus.captions, make_tokenizers(recipe))
    trainer = FlowTrainer(latents, ids, recipe, work, torch.device(device))
    for _ in trainer.run():
        pass


if __name__ == "__main__":
    typer.run(main)
