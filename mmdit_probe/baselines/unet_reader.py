"""A Stable Diffusion U-Net on an image: encode, add noise, and one forward pass under probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.joint import JointAttention
from ..families import (
    UNET_SELF,
    Pipeline,
    denoiser_of,
    device_of,
    is_unet_pipeline,
    latent_pixels,
    layers_of,
    run_unet,
    signal_share,
    training_steps,
    unet_latents,
    unet_prompt,
)
from ..pipelines.forward import to_pixels
from ..probe.probe import Probe
from ..readouts.base import Fields, Readout
from ..storage.images import squared


class KeepAttention(Readout):
    """Keeps each layer's attention in ``found``, by layer, with queries and keys on their device; nothing enters the record."""

    def __init__(self) -> None:
        self.found: dict[int, JointAttention] = {}

    def measure(self, attention: JointAttention) -> Fields:
        self.found[attention.layer] = attention
        return {}


class UNetReader:
    """Reads the attention of one image at a time.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline.
        side: side in px of the square that images are stretched to.
        timestep: diffusion timestep in 0 to 999, 0 the clean end.
        seed: of the noise, which is the same for every image.
        noisy: add noise to the latents; False gives the U-Net the clean latents with the same timestep.
        sample: sample the autoencoder's posterior instead of taking its mean.
    """

    def __init__(
        self, pipe: Pipeline, side: int, timestep: int, seed: int = 0, *, noisy: bool = True, sample: bool = False
    ) -> None:
        if not is_unet_pipeline(pipe):
            raise ValueError(
                f"this system needs a Stable Diffusion U-Net pipeline (1.x, 2.x, XL), got {type(pipe).__name__}"
            )
        if side % latent_pixels(pipe):
            raise ValueError(f"side must be a multiple of {latent_pixels(pipe)} px, got {side}")
        self.pipe, self.side, self.timestep, self.seed = pipe, side, timestep, seed
        self.noisy, self.sample = noisy, sample
        steps = training_steps(pipe)
        if not 0 <= timestep < steps:
            raise ValueError(f"timestep must be in 0 to {steps - 1}, got {timestep}")

    @torch.no_grad()
    def latents(self, image: np.ndarray) -> Tensor:
        """Noisy latents (1, channels, rows, cols) of an image (height, width, 3) uint8."""
        generator = torch.Generator().manual_seed(self.seed)
        pixels = to_pixels([squared(image, self.side)], device_of(self.pipe))
        clean = unet_latents(self.pipe, pixels, generator if self.sample else None)
        if not self.noisy:
            return clean
        signal = signal_share(self.pipe, self.timestep).to(clean)
        return signal.sqrt() * clean + (1 - signal).sqrt() * torch.randn(clean.shape, generator=generator).to(clean)

    @torch.no_grad()
    def encode(self, prompt: str) -> tuple[Tensor, dict[str, Any]]:
        """Text embeddings (1, tokens, width) of a prompt, and the U-Net's further arguments."""
        return unet_prompt(self.pipe, prompt, self.side)

    @torch.no_grad()
    def run(self, latents: Tensor, features: tuple[Tensor, dict[str, Any]]) -> None:
        """One forward pass; open the probes around it."""
        run_unet(self.pipe, latents, self.timestep, *features)

    def kept(
        self, latents: Tensor, features: tuple[Tensor, dict[str, Any]], layers: Sequence[int] | None
    ) -> KeepAttention:
        """The self-attention of some layers, all if None; the forward pass ends after the last one."""
        readout = KeepAttention()
        with Probe(denoiser_of(self.pipe), [readout], layers=layers, stop_early=True, family=UNET_SELF):
            self.run(latents, features)
        return readout

    def self_attention(self, image: np.ndarray, prompt: str, layer: int) -> tuple[JointAttention, nn.Module]:
        """One layer's self-attention on an image, and its module."""
        kept = self.kept(self.latents(image), self.encode(prompt), [layer])
        return kept.found[layer], layers_of(self.pipe, UNET_SELF)[layer]


def at_level(found: dict[int, JointAttention], latents: Tensor, level: int) -> list[JointAttention]:
    """The layers that see the latents halved ``level`` times, rounded up."""
    rows, cols = latents.shape[-2:]
    for _ in range(level):
        rows, cols = (rows + 1) // 2, (cols + 1) // 2
    return [attention for attention in found.values() if attention.layout.grid == (rows, cols)]
