"""Trains the embedded models: ``python -m mmdit_probe.tiny.train --model tiny-sd3 --work DIR``.

The stages are: draw the scenes, fit the autoencoder, train the transformer with its text encoders, export, and, with tiny-sd3,
train the tiny CLIP and the scene reader. Each is resumed, or skipped if its result is in the work folder. No stage uses a
mask; masks are only read to log how well the layers ground words.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from diffusers import AutoencoderKL, DiffusionPipeline

from ..configs import EMBEDDED
from ..datasets.scenes import scenes as drawn_scenes
from ..metrics.scene_reader import ReaderNetwork, SceneReader
from ..pipelines.loading import embedded_folder
from ..studies.scene_grounding import measure_layers
from .autoencoder import encode_all, train_autoencoder
from .clip import make_processor, train_clip
from .corpus import Corpus, make_corpus
from .denoiser import Denoiser, token_ids
from .export import name_of_weights, save_defaults, save_half, save_recipe
from .flow import FlowTrainer
from .kinds import make_pipeline, make_tokenizers
from .parts import make_autoencoder
from .recipe import RECIPES, Recipe
from .samples import generate, read_samples
from .scene_reader import save_reader, train_reader

_LOG_TIMESTEP = 8


def fit_autoencoder(
    corpus: Corpus, recipe: Recipe, work: Path, device: torch.device, start: Path | None = None
) -> AutoencoderKL:
    """The autoencoder: the work folder's, else that of the pipeline folder ``start``, else a new one, which is trained."""
    folder = work / "vae"
    if not folder.exists():
        if start is None:
            vae = train_autoencoder(make_autoencoder(recipe), corpus.images, recipe, device)
        else:
            vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32)
        vae.save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder).eval().to(device)


def fit_flow(
    corpus: Corpus,
    vae: AutoencoderKL,
    recipe: Recipe,
    work: Path,
    device: torch.device,
    start: Path | None = None,
    save_every: int = 500,
) -> Denoiser:
    """The transformer and text encoders with averaged weights.

    At each checkpoint, flow.jsonl gets each layer's mIoU (``miou``) and the shares of held-out prompts' grounds, shapes and colored
    shapes that the scene reader finds in their images (``found``), all in [0, 1].
    """
    file = work / "latents.pt"
    if not file.exists():
        torch.save(encode_all(vae, corpus.images, device), file)
    latents = torch.load(file, weights_only=True)
    trainer = FlowTrainer(latents, token_ids(corpus.captions, make_tokenizers(recipe)), recipe, work, device, start)
    for _ in trainer.run(save_every):
        trainer.log(**look(make_pipeline(trainer.averaged(), vae, recipe), recipe))
    return trainer.averaged()


def look(pipe: DiffusionPipeline, recipe: Recipe) -> dict[str, dict[str, float]]:
    """What is logged at a checkpoint, of validation scenes: ``miou`` by layer, and what the scene reader has ``found``."""
    held_out = list(drawn_scenes("val", max(recipe.log_scenes, recipe.log_prompts)))
    masks, _ = measure_layers(pipe, held_out[: recipe.log_scenes], _LOG_TIMESTEP, 0, recipe.text_positions)
    prompts = [scene.sentence() for scene in held_out[: recipe.log_prompts]]
    return {
        "miou": {str(row.layer): round(row.miou, 4) for row in masks.itertuples()},
        "found": read_samples(prompts, generate(pipe, prompts, 0, recipe)),
    }


def fit_reader(vae: AutoencoderKL, recipe: Recipe, work: Path, device: torch.device) -> ReaderNetwork:
    """The scene reader, trained if it is not in the work folder."""
    folder = work / "scene-reader"
    if not folder.exists():
        save_reader(train_reader(vae, recipe, device), folder)
    return SceneReader.load(folder).network


def main(
    model: Annotated[Literal["tiny-sd3", "tiny-flux"], typer.Option(help="Which model.")] = "tiny-sd3",
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and intermediate results.")] = Path("tiny-work"),
    out: Annotated[Path | None, typer.Option(help="Folder for the weights; the package's own if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
    start: Annotated[
        Path | None, typer.Option(help="A pipeline folder of the same sizes, whose weights are gone on from.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Training samples of the transformer.", min=1)] = None,
    decay_samples: Annotated[
        int | None, typer.Option(help="The last samples, over which the rate falls to 0; 0 keeps it constant.", min=0)
    ] = None,
    optimizer: Annotated[Literal["adamw", "muon"] | None, typer.Option(help="Optimizer of the transformer.")] = None,
    loss: Annotated[
        Literal["mse", "whitened"] | None,
        typer.Option(help="Plain, or weighed by the inverse of the residual's covariance."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Of the transformer's arithmetic in training; bfloat16 is faster on CPUs that have it."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate of the transformer.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples a step.", min=1)] = None,
    ema: Annotated[float | None, typer.Option(help="Share of the averaged weights that stays at each step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first weights and of the samples.")] = None,
    scenes: Annotated[int | None, typer.Option(help="Number of training scenes.", min=1)] = None,
    save_every: Annotated[int, typer.Option(help="Steps of the transformer between checkpoints.", min=1)] = 500,
) -> None:
    """Train an embedded model; what is not given is in its recipe.

    A new tiny-sd3 comes with the tiny CLIP and the scene reader; they are left as they are for tiny-flux and with --start. A run
    whose rate is constant (--decay-samples 0) can be ended at any time, and as often as one likes, by one that has a decay.
    """
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    work.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    given: dict[str, Any] = {
        "samples": samples, "decay_samples": decay_samples, "optimizer": optimizer, "loss": loss, "precision": precision,
        "rate": rate, "batch": batch, "ema": ema, "seed": seed, "scenes": scenes,
    }  # fmt: skip
    if start is not None:
        given["started_from"] = name_of_weights(start)
    recipe = replace(RECIPES[model], **{name: value for name, value in given.items() if value is not None})
    place, weights = torch.device(device), out or embedded_folder().parent
    corpus = make_corpus(recipe.scenes, recipe.caption_variants, work)
    vae = fit_autoencoder(corpus, recipe, work, place, start)
    denoiser = fit_flow(corpus, vae, recipe, work, place, start, save_every)
    save_half(make_pipeline(denoiser, vae, recipe), weights / model)
    save_recipe(recipe, weights / model)
    save_defaults(recipe, weights / model)
    if model == EMBEDDED and start is None:
        clip = train_clip(corpus, recipe, work, place)
        clip.half().save_pretrained(weights / "tiny-clip")
        make_processor(recipe).save_pretrained(weights / "tiny-clip")
        save_reader(fit_reader(vae, recipe, work, place), weights / "scene-reader")
    typer.echo(f"weights are in {weights}; now run python -m mmdit_probe.tiny.evaluate")


if __name__ == "__main__":
    typer.run(main)
