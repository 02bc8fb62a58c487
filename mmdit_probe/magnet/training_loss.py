"""The loss of one forward pass: flow matching, and the mask loss on the expert layer's I2T maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..configs import MagnetConfig
from ..families import Pipeline, constant_shift
from ..pipelines.defaults import text_length
from ..pipelines.forward import PromptEmbeddings, encode_images, encode_prompts, transformer_arguments
from ..pipelines.prompts import first_encoder
from ..probe.probe import Probe
from ..readouts.region_mass import RegionMass
from ..segmentation.class_prompts import class_prompts
from .examples import Example, first_sentences
from .i2t_logits import AttentionTap
from .objective import MaskLoss, Target, mask_loss
from .sampler import noise_at


class Losses(NamedTuple):
    """The loss of one forward pass, and its parts before weighting."""

    total: Tensor
    flow: Tensor
    mask: MaskLoss


class TrainingLoss:
    """Computes the loss of a batch: ``flow + mask_weight (focal_weight focal + dice_weight dice)``.

    Args:
        pipe: a Stable Diffusion 3 or 3.5 pipeline; its text encoders and VAE encode the batch.
        config: the weights of the losses, the matching, and the distribution of the noise levels.
        layer: the layer whose I2T maps the mask loss reads; `ValueError` if the model does not have it.
    """

    def __init__(self, pipe: Pipeline, config: MagnetConfig, layer: int) -> None:
        self.pipe, self.config = pipe, config
        self.tap = AttentionTap(layer)
        self.probe = Probe(pipe, [], edits=[self.tap])
        self.text_positions = text_length(pipe, config.max_sequence_length)

    def __call__(
        self, model: nn.Module, chosen: Sequence[Example], positions: Sequence[int], head: nn.Module | None = None
    ) -> Losses:
        """One forward pass of ``model``, the pipeline's transformer as the accelerator wraps it.

        ``positions`` are the examples' positions in the order of training, which decide their noise; ``head`` is the
        `MaskHead`, if there is one.
        """
        config = self.config
        embeddings, targets = self._text(chosen)
        clean = encode_images(self.pipe, [example.pixels for example in chosen])
        noise, sigma = self._noise(positions, clean)
        mix = sigma[:, None, None, None]
        noisy = ((1 - mix) * clean.float() + mix * noise).to(clean.dtype)
        with self.probe:
            velocity = model(**transformer_arguments(self.pipe, noisy, sigma, embeddings)).sample
        attention = self.tap.take()
        flow = (velocity.float() - (noise - clean.float())).square().mean()
        with torch.set_grad_enabled(config.mask_weight > 0):
            mask = mask_loss(attention, targets, config, head)
        weighted = config.focal_weight * mask.focal + config.dice_weight * mask.dice
        return Losses(flow + config.mask_weight * weighted, flow, mask)

    @torch.no_grad()
    def check_attention(
        self, model: nn.Module, chosen: Sequence[Example], positions: Sequence[int], head: nn.Module | None = None
    ) -> None:
        """Repeat a forward pass; `ValueError` names the first layer whose attention is not finite, if there is one."""
        with Probe(self.pipe, [RegionMass()]):
            self(model, chosen, positions, head)

    def _noise(self, positions: Sequence[int], clean: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and noise levels, always in fp32: bf16 would round a timestep of the scheduler to a multiple of 4."""
        config, shift = self.config, constant_shift(self.pipe)
        drawn = [
            noise_at(p, clean.shape[1:], config.seed, config.noise_mean, config.noise_std, shift) for p in positions
        ]
        noise = torch.stack([noise for noise, _ in drawn]).to(clean.device)
        return noise, torch.tensor([sigma for _, sigma in drawn], device=clean.device)

    def _text(self, chosen: Sequence[Example]) -> tuple[PromptEmbeddings, list[Target]]:
        """The examples' prompts, encoded, and the target of each one's maps."""
        if self.config.matching == "token":
            named = [self._names(example) for example in chosen]
            return self._encode([prompt for prompt, _ in named]), [target for _, target in named]
        embeddings = self._encode([first_sentences(example.caption, self.config.sentences) for example in chosen])
        return embeddings, [
            Target(example.masks, positions=np.flatnonzero(row).tolist())
            for example, row in zip(chosen, first_encoder(embeddings.text), strict=True)
        ]

    def _encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        return encode_prompts(self.pipe, prompts, self.text_positions)

    def _names(self, example: Example) -> tuple[str, Target]:
        """A prompt of as many of the example's class names as fit, and their masks."""
        if not example.names:
            return "", Target(example.masks[:0])
        prompt = class_prompts(self.pipe, example.names, self.text_positions)[0]
        return prompt.prompt, Target(example.masks[list(prompt.numbers)], prompt.spans)
