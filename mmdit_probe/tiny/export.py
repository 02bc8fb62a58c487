"""Saving the trained parts as the pipeline folder that the package ships."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline

from .flow import Denoiser
from .parts import make_scheduler, make_tokenizers
from .recipe import Recipe


def make_pipeline(denoiser: Denoiser, vae: AutoencoderKL, recipe: Recipe) -> StableDiffusion3Pipeline:
    """A pipeline of the trained parts."""
    tokenizer, tokenizer_2 = make_tokenizers(recipe)
    pipe = StableDiffusion3Pipeline(
        transformer=denoiser.transformer,
        scheduler=make_scheduler(),
        vae=vae,
        text_encoder=denoiser.text_encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=denoiser.text_encoders[1],
        tokenizer_2=tokenizer_2,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_half(pipe: StableDiffusion3Pipeline, folder: Path) -> None:
    """Save the pipeline in fp16 safetensors, without the paths that its parts were loaded from."""
    pipe.to(torch.float16).save_pretrained(folder)
    for file in folder.glob("*/config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)
        file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file, by its path in ``folder``."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }
