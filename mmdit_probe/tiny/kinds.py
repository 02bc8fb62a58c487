"""The embedded models by name: how each is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline

from . import flux, sd3
from .denoiser import Denoiser
from .recipe import Recipe


@dataclass(frozen=True)
class Kind:
    """What a model is made of: its tokenizers, the trained parts, the pipeline of them."""

    tokenizers: Callable[[Recipe], tuple[Any, ...]]
    denoiser: Callable[[Recipe], Denoiser]
    pipeline: Callable[[Denoiser, AutoencoderKL, Recipe], DiffusionPipeline]


KINDS: Mapping[str, Kind] = {
    "tiny-sd3": Kind(sd3.make_tokenizers, sd3.Sd3Denoiser, sd3.make_sd3),
    "tiny-flux": Kind(flux.make_tokenizers, flux.FluxDenoiser, flux.make_flux),
}


def make_tokenizers(recipe: Recipe) -> tuple[Any, ...]:
    """The tokenizers of the recipe's model."""
    return KINDS[recipe.model].tokenizers(recipe)


def make_denoiser(recipe: Recipe) -> Denoiser:
    """The untrained transformer and text encoders of the recipe's model."""
    return KINDS[recipe.model].denoiser(recipe)


def make_pipeline(denoiser: Denoiser, vae: AutoencoderKL, recipe: Recipe) -> DiffusionPipeline:
    """A pipeline of the trained parts."""
    pipe = KINDS[recipe.model].pipeline(denoiser, vae, recipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe
