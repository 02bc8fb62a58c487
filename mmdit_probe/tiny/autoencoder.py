"""Training tiny-sd3's autoencoder."""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from .recipe import Recipe


def to_model(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (n, height, width, 3) uint8 as (n, 3, height, width) in [-1, 1]."""
    pixels = torch.from_numpy(np.array(images)).to(device)  # a copy, since the corpus is a read-only memory map
    return rearrange(pixels, "n h w rgb -> n rgb h w").float() / 127.5 - 1


def _edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels.diff(dim=-1), pixels.diff(dim=-2)


def _loss(vae: AutoencoderKL, pixels: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    square = functional.mse_loss(decoded, pixels)
    absolute = functional.l1_loss(decoded, pixels)
    gradient = sum(functional.l1_loss(a, b) for a, b in zip(_edges(decoded), _edges(pixels), strict=True))
    return square + 0.1 * absolute + 0.1 * gradient + kl_weight * posterior.kl().mean() / pixels[0].numel(), square


def _crop(images: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of the images (n, height, width, 3), the same of all."""
    top, left = (int(rng.integers(0, whole - side + 1)) for whole in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def train_autoencoder(vae: AutoencoderKL, images: np.ndarray, recipe: Recipe, device: torch.device) -> AutoencoderKL:
    """Fit ``vae`` to ``images`` (n, 64, 64, 3) uint8, then standardize its latents."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    vae.to(device).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.autoencoder_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.autoencoder_rate, total_steps=recipe.autoencoder_steps, pct_start=0.05
    )
    bar = tqdm(range(recipe.autoencoder_steps), "autoencoder", mininterval=5)
    for step in bar:
        chosen = np.sort(rng.choice(len(images), recipe.autoencoder_batch, replace=False))
        loss, square = _loss(
            vae, to_model(_crop(images[chosen], recipe.autoencoder_crop, rng), device), recipe.kl_weight
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(psnr=f"{10 * math.log10(4 / square.item()):.1f} dB")
    vae.eval()
    _standardize(vae, to_model(images[: 16 * recipe.autoencoder_batch], device))
    return vae


@torch.no_grad()
def _standardize(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Give all latent channels the same standard deviation, then set one scalar shift and scale.

    The deviations are moved into the last convolution of the encoder and the first of the decoder, which leaves decoded
    images unchanged; the channels' means could not be moved, because the decoder pads with zeros.
    """
    channels = vae.config.latent_channels
    deviation = vae.encode(pixels).latent_dist.mean.std((0, 2, 3))
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] /= deviation
    out.bias[channels:] -= 2 * deviation.log()
    into.weight *= deviation[None, :, None, None]
    latent = vae.encode(pixels).latent_dist.mean
    vae.register_to_config(shift_factor=latent.mean().item(), scaling_factor=1 / latent.std().item())


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: np.ndarray, device: torch.device, batch: int = 256) -> Tensor:
    """Posterior means of all images, (n, 16, 8, 8) in fp16, scaled as the pipeline scales them."""
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    latents = [
        ((vae.encode(to_model(images[i : i + batch], device)).latent_dist.mean - shift) * scale).half().cpu()
        for i in tqdm(range(0, len(images), batch), "encoding scenes", mininterval=5)
    ]
    return torch.cat(latents)
