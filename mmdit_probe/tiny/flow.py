"""Flow-matching training of tiny-sd3's transformer together with its two text encoders."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from .key_bias import KeyBias
from .parts import make_text_encoder, make_tokenizers, make_transformer
from .recipe import Recipe


class Denoiser(nn.Module):
    """The transformer and its text encoders, trained jointly."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        tokenizers = make_tokenizers(recipe)
        self.text_encoders = nn.ModuleList(make_text_encoder(recipe, i, t) for i, t in enumerate(tokenizers))
        self.transformer: SD3Transformer2DModel = make_transformer(recipe)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (batch, length, width) and pooled vectors (batch, width) of token ids (2, batch, length)."""
        outputs = [encoder(i, output_hidden_states=True) for encoder, i in zip(self.text_encoders, ids, strict=True)]
        features = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return features, torch.cat([output.text_embeds for output in outputs], -1)

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor, keep_pooled: Tensor, absent: Tensor) -> Tensor:
        """The predicted velocity.

        ``absent`` (batch,) is the number of all-zero T5 positions. They are equal in every layer, so that one of them with
        ``log(absent)`` added to its scores exactly replaces them all.
        """
        text, pooled = self.encode(ids)
        text = nn.functional.pad(text, (0, 0, 0, 1))
        bias = noisy.new_zeros(len(noisy), 1, 1, noisy.shape[-1] * noisy.shape[-2] + text.shape[1])
        bias[:, 0, 0, -1] = absent.float().log()
        with KeyBias(bias.clamp(min=-1e4)):
            return self.transformer(
                hidden_states=noisy,
                encoder_hidden_states=text,
                pooled_projections=pooled * keep_pooled[:, None],
                timestep=1000 * sigma,
            ).sample


def token_ids(captions: np.ndarray, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> Tensor:
    """Token ids (2, n, variants, length) of captions (n, variants)."""
    unique, inverse = np.unique(captions, return_inverse=True)
    tables = [
        torch.tensor(t(list(unique), padding="max_length", truncation=True).input_ids, dtype=torch.int16)
        for t in tokenizers
    ]
    return torch.stack([table[torch.from_numpy(inverse.reshape(captions.shape))] for table in tables])


class FlowTrainer:
    """Resumable training; a step's data depend on its number alone, so that a resumed run continues exactly."""

    def __init__(self, latents: Tensor, ids: Tensor, recipe: Recipe, work: Path, device: torch.device) -> None:
        self.latents, self.ids, self.recipe, self.device = latents, ids, recipe, device
        self.file, self.log_file = work / "flow.pt", work / "flow.jsonl"
        self.steps = recipe.samples // recipe.batch
        self.model = Denoiser(recipe).to(device)
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.step, self.seconds = 0, 0.0
        if self.file.exists():
            self._load()

    def rate(self, step: int) -> float:
        """The learning rate: warm-up, constant, then a cosine down to 0."""
        recipe = self.recipe
        decay_from = self.steps * (1 - recipe.decay_fraction)
        late = max(0.0, (step - decay_from) / (self.steps - decay_from))
        return recipe.rate * min(1.0, (step + 1) / recipe.warmup_steps) * 0.5 * (1 + math.cos(math.pi * late))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step's clean latents, noise, sigma, token ids and, stacked, ``keep_pooled`` and ``absent`` of `Denoiser.forward`."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        size = recipe.batch
        chosen = torch.randint(len(self.latents), (size,), generator=generator)
        variant = torch.randint(self.ids.shape[2], (size,), generator=generator)
        clean = self.latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator)
        sigma = torch.sigmoid(recipe.noise_mean + recipe.noise_std * torch.randn(size, generator=generator))
        keep = (torch.rand(size, generator=generator) < recipe.pooled_keep).float()
        absent = torch.tensor(recipe.absent_t5)[torch.randint(len(recipe.absent_t5), (size,), generator=generator)]
        text = torch.stack([keep, absent.float()])
        ids, device = self.ids[:, chosen, variant].long(), self.device
        return clean.to(device), noise.to(device), sigma.to(device), ids.to(device), text.to(device)

    def _train_step(self) -> float:
        clean, noise, sigma, ids, (keep, absent) = self.batch(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        mix = sigma[:, None, None, None]
        velocity = self.model((1 - mix) * clean + mix * noise, sigma, ids, keep, absent)
        loss = (velocity - (noise - clean)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.model.parameters()], 1 - decay)
        self.step += 1
        return loss.item()

    def run(self, save_every: int = 500, log_every: int = 50) -> Iterator[int]:
        """Train to the end; yields the step number after each checkpoint."""
        self.model.train()
        bar = tqdm(total=self.steps, initial=self.step, desc="transformer", mininterval=10, unit="step")
        losses: list[float] = []
        while self.step < self.steps:
            start = time.perf_counter()
            losses.append(self._train_step())
            self.seconds += time.perf_counter() - start
            bar.update()
            if self.step % log_every == 0:
                bar.set_postfix(loss=f"{np.mean(losses):.4f}")
                self.log(loss=float(np.mean(losses)), rate=self.rate(self.step))
                losses = []
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
                yield self.step

    def log(self, **values: object) -> None:
        """Append a line of JSON to flow.jsonl."""
        samples = self.step * self.recipe.batch
        with self.log_file.open("a") as lines:
            lines.write(
                json.dumps({"step": self.step, "samples": samples, "seconds": round(self.seconds), **values}) + "\n"
            )

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.file.with_suffix(".tmp"))
        os.replace(self.file.with_suffix(".tmp"), self.file)

    def _load(self) -> None:
        state = torch.load(self.file, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]

    def averaged(self) -> Denoiser:
        """A copy of the model with the averaged weights."""
        model = Denoiser(self.recipe).to(self.device).eval()
        for weight, average in zip(model.parameters(), self.ema, strict=True):
            weight.data.copy_(average)
        return model.requires_grad_(False)
