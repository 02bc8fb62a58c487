"""A Stable Diffusion U-Net on an image: encode, add noise, and one forward pass under probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.joint import JointAttention
from ..families import UNET_SELF, device_of
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
        self, pipe: Any, side: int, timestep: int, seed: int = 0, *, noisy: bool = True, sample: bool = False
    ) -> None:
        if getattr(pipe, "unet", None) is None:
            raise ValueError(
                f"this system needs a Stable Diffusion U-Net pipeline (1.x, 2.x, XL), got {type(pipe).__name__}"
            )
        if side % pipe.vae_scale_factor:
            raise ValueError(f"side must be a multiple of {pipe.vae_scale_factor} px, got {side}")
        self.pipe, self.side, self.timestep, self.seed = pipe, side, timestep, seed
        self.noisy, self.sample = noisy, sample
        steps = len(pipe.scheduler.alphas_cumprod)
        if not 0 <= timestep < steps:
            raise ValueError(f"timestep must be in 0 to {steps - 1}, got {timestep}")

    @torch.no_grad()
    def latents(self, image: np.ndarray) -> Tensor:
        """Noisy latents (1, channels, rows, cols) of an image (height, width, 3) uint8."""
        vae, generator = self.pipe.vae, torch.Generator().manual_seed(self.seed)
        pixels = to_pixels([squared(image, self.side)], device_of(self.pipe))
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        clean = posterior.mean
        if self.sample:
            clean = clean + posterior.std * torch.randn(clean.shape, generator=generator).to(clean)
        clean = clean * vae.config.scaling_factor
        if not self.noisy:
            return clean
        kept = self.pipe.scheduler.alphas_cumprod[self.timestep].to(clean)
        return kept.sqrt() * clean + (1 - kept).sqrt() * torch.randn(clean.shape, generator=generator).to(clean)

    @torch.no_grad()
    def encode(self, prompt: str) -> tuple[Tensor, dict[str, Any]]:
        """A prompt's text embeddings (1, tokens, width), and the U-Net's further arguments."""
        place = device_of(self.pipe)
        if hasattr(self.pipe, "text_encoder_2"):
            found = self.pipe.encode_prompt(prompt, device=place, do_classifier_free_guidance=False)
            size = [self.side, self.side, 0, 0, self.side, self.side]
            times = torch.tensor([size], dtype=found[2].dtype, device=found[2].device)
            return found[0], {"added_cond_kwargs": {"text_embeds": found[2], "time_ids": times}}
        return self.pipe.encode_prompt(prompt, place, 1, False)[0], {}

    @torch.no_grad()
    def run(self, latents: Tensor, features: tuple[Tensor, dict[str, Any]]) -> None:
        """One forward pass; open the probes around it."""
        states, more = features
        unet = self.pipe.unet
        unet(latents.to(unet.dtype), self.timestep, encoder_hidden_states=states, **more)

    def kept(
        self, latents: Tensor, features: tuple[Tensor, dict[str, Any]], layers: Sequence[int] | None
    ) -> KeepAttention:
        """The self-attention of some layers, all if None; the forward pass ends after the last one."""
        readout = KeepAttention()
        with Probe(self.pipe.unet, [readout], layers=layers, stop_early=True, family=UNET_SELF):
            self.run(latents, features)
        return readout

    def self_attention(self, image: np.ndarray, prompt: str, layer: int) -> tuple[JointAttention, nn.Module]:
        """One layer's self-attention on an image, and its module."""
        kept = self.kept(self.latents(image), self.encode(prompt), [layer])
        return kept.found[layer], UNET_SELF.layers(self.pipe.unet)[layer]


def at_level(found: dict[int, JointAttention], latents: Tensor, level: int) -> list[JointAttention]:
    """The layers that see the latents halved ``level`` times, rounded up."""
    rows, cols = latents.shape[-2:]
    for _ in range(level):
        rows, cols = (rows + 1) // 2, (cols + 1) // 2
    return [attention for attention in found.values() if attention.layout.grid == (rows, cols)]
