"""What the commands of `benchmarks.real_size` are compared with: the plain pipeline, in a process of its own.

``python -m benchmarks.plain_work FOLDER DTYPE DEVICE IMAGE SIDE read`` encodes the image and a prompt, and runs the transformer
once; ``generate STEPS`` runs the pipeline up to the latents, ``draw STEPS...`` to the image, once for each number of steps.
``SIDE`` is the image's width in px, 0 for the model's own.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmdit_probe import load_pipeline
from mmdit_probe.pipelines.forward import encode_prompts, forward_noisy, to_pixels
from mmdit_probe.pipelines.image_size import native_size

from .real_size import PROMPT


@torch.no_grad()
def read(pipe: Any, image: Image.Image, length: int) -> None:
    pixels = to_pixels([np.asarray(image)], pipe.device).to(pipe.vae.dtype)
    latents = pipe.vae.encode(pixels).latent_dist.mean
    forward_noisy(pipe, latents, 0.5, encode_prompts(pipe, [PROMPT], length), seed=0)


def make(pipe: Any, steps: int, form: str, side: int, length: int) -> None:
    more: dict[str, Any] = {"height": side, "width": side} if side else {}
    unguided = {} if type(pipe).__name__ == "FluxPipeline" else {"guidance_scale": 1.0}
    pipe(prompt=PROMPT, num_inference_steps=steps, output_type=form, max_sequence_length=length, **unguided, **more)


def main(folder: str, dtype: Any, device: str, image: str, side: str, work: str, *steps: str) -> None:
    pipe = load_pipeline(folder, dtype=dtype, device=device)
    length = {"StableDiffusion3Pipeline": 77, "FluxPipeline": 512}.get(type(pipe).__name__, 226)
    if work == "read":
        size = (int(side) or native_size(pipe),) * 2
        read(pipe, Image.open(image).convert("RGB").resize(size), length)
    for count in steps:
        make(pipe, int(count), {"generate": "latent", "draw": "np"}[work], int(side), length)


if __name__ == "__main__":
    main(*sys.argv[1:])
