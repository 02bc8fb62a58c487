"""Trains tiny-sd3: ``python -m mmdit_probe.tiny.train --work DIR``.

The stages are: draw the scenes, fit the autoencoder, train the transformer with its text encoders, train the tiny CLIP and the
scene reader, and export. Each is resumed, or skipped if its result is in the work folder. No stage uses a mask; masks are only
read to log how well the layers ground words.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL

from ..datasets.scenes import scenes
from ..metrics.scene_reader import ReaderNetwork, SceneReader
from ..pipelines.loading import embedded_folder
from ..studies.scene_grounding import measure_layers
from .autoencoder import encode_all, train_autoencoder
from .clip import make_processor, train_clip
from .corpus import Corpus, make_corpus
from .export import make_pipeline, save_half
from .flow import Denoiser, FlowTrainer, token_ids
from .parts import make_autoencoder, make_tokenizers
from .recipe import Recipe
from .scene_reader import save_reader, train_reader

_LOG_TIMESTEP, _LOG_SCENES = 8, 50


def fit_autoencoder(corpus: Corpus, recipe: Recipe, work: Path, device: torch.device) -> AutoencoderKL:
    """The autoencoder, trained if it is not in the work folder."""
    folder = work / "vae"
    if not folder.exists():
        vae = train_autoencoder(make_autoencoder(recipe), corpus.images, recipe, device)
        vae.save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder).eval().to(device)


def fit_flow(corpus: Corpus, vae: AutoencoderKL, recipe: Recipe, work: Path, device: torch.device) -> Denoiser:
    """The transformer and text encoders with averaged weights; logs each layer's mIoU at each checkpoint."""
    file = work / "latents.pt"
    if not file.exists():
        torch.save(encode_all(vae, corpus.images, device), file)
    latents = torch.load(file, weights_only=True)
    trainer = FlowTrainer(latents, token_ids(corpus.captions, make_tokenizers(recipe)), recipe, work, device)
    for _ in trainer.run():
        pipe = make_pipeline(trainer.averaged(), vae, recipe)
        masks, _ = measure_layers(pipe, list(scenes("val", _LOG_SCENES)), _LOG_TIMESTEP, seed=0, max_sequence_length=0)
        trainer.log(miou={str(row.layer): round(row.miou, 4) for row in masks.itertuples()})
    return trainer.averaged()


def fit_reader(vae: AutoencoderKL, recipe: Recipe, work: Path, device: torch.device) -> ReaderNetwork:
    """The scene reader, trained if it is not in the work folder."""
    folder = work / "scene-reader"
    if not folder.exists():
        save_reader(train_reader(vae, recipe, device), folder)
    return SceneReader.load(folder).network


def main(
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and intermediate results.")] = Path("tiny-work"),
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; the package's own if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
    samples: Annotated[int, typer.Option(help="Training samples of the transformer.")] = Recipe.samples,
) -> None:
    """Train tiny-sd3, the tiny CLIP and the scene reader."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    work.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    recipe, place = Recipe(samples=samples), torch.device(device)
    weights = out or embedded_folder().parent
    corpus = make_corpus(recipe.scenes, recipe.caption_variants, work)
    vae = fit_autoencoder(corpus, recipe, work, place)
    denoiser = fit_flow(corpus, vae, recipe, work, place)
    save_half(make_pipeline(denoiser, vae, recipe), weights / "tiny-sd3")
    clip = train_clip(corpus, recipe, work, place)
    clip.half().save_pretrained(weights / "tiny-clip")
    make_processor(recipe).save_pretrained(weights / "tiny-clip")
    save_reader(fit_reader(vae, recipe, work, place), weights / "scene-reader")
    typer.echo(f"weights are in {weights}; now run python -m mmdit_probe.tiny.evaluate")


if __name__ == "__main__":
    typer.run(main)
