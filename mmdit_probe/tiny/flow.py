"""Flow-matching training: warm-up, a constant rate for as long as one likes, and a decay that may start at any time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from .denoiser import Denoiser
from .kinds import make_denoiser
from .muon import Muon
from .recipe import Recipe
from .residuals import ResidualPrecision


def make_optimizers(model: Denoiser, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW, and, if the recipe says so, Muon for the matrices of the blocks, those aside that make modulations."""
    matrices = [
        weight
        for name, weight in model.transformer.named_parameters()
        if recipe.optimizer == "muon" and "_blocks." in name and "norm" not in name and weight.ndim == 2
    ]
    taken = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=recipe.rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99))
    ]
    if matrices:
        optimizers.append(Muon(matrices, lr=recipe.rate, weight_decay=recipe.weight_decay))
    return optimizers


class FlowTrainer:
    """Resumable training; a step's data depend on its number alone, so that a resumed run continues exactly.

    Until the decay starts, checkpoints go to flow.pt; from then on to flow-decay.pt. So that the constant phase can be gone on
    with after a decay, by a new run with more samples, or be ended by another decay.

    Args:
        latents: (n, channels, rows, columns) of the scenes.
        ids: (encoders, n, variants, length) token ids of their captions.
        recipe: settings; ``samples`` and ``decay_samples`` say when the decay starts.
        work: folder of the checkpoints and of flow.jsonl.
        device: where it is trained.
        start: a pipeline folder whose weights are the first ones; random ones if None.

    Raises:
        ValueError: flow.pt is past the step at which the decay is to start.
    """

    def __init__(
        self, latents: Tensor, ids: Tensor, recipe: Recipe, work: Path, device: torch.device, start: Path | None = None
    ) -> None:
        self.latents, self.ids, self.recipe, self.device, self.start = latents, ids, recipe, device, start
        self.file, self.end_file, self.log_file = work / "flow.pt", work / "flow-decay.pt", work / "flow.jsonl"
        self.steps = recipe.samples // recipe.batch
        self.decay_from = self.steps - recipe.decay_samples // recipe.batch
        self.model = make_denoiser(recipe).to(device)
        self.step, self.seconds = 0, 0.0
        resumed = self._checkpoint()
        if resumed is None and start is not None:
            self.model.load(start)
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.optimizers = make_optimizers(self.model, recipe)
        self.whitening = ResidualPrecision(latents.shape[1]).to(device) if recipe.loss == "whitened" else None
        if resumed is not None:
            self._restore(resumed)

    def rate(self, step: int) -> float:
        """The learning rate: warm-up, constant, then a cosine down to 0."""
        recipe = self.recipe
        late = max(0.0, (step - self.decay_from) / max(1, self.steps - self.decay_from))
        return recipe.rate * min(1.0, (step + 1) / recipe.warmup_steps) * 0.5 * (1 + math.cos(math.pi * late))

    def averaging(self, step: int) -> float:
        """The share of the averaged weights that stays; lower at the start of training and of the decay, to forget the past."""
        since = step - self.decay_from if step >= self.decay_from else step
        return min(self.recipe.ema, (1 + since) / (10 + since))

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

    def _velocity(self, *inputs: Tensor) -> Tensor:
        """What the model predicts, in float32; its own arithmetic is in the recipe's ``precision``."""
        if self.recipe.precision == "float32":
            return self.model(*inputs)
        # On CPUs, the flash kernel's backward pass is the slower one.
        kernel = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16), kernel:
            return self.model(*inputs).float()

    def _train_step(self) -> float:
        """One step; returns the mean squared error, whatever the loss is."""
        clean, noise, sigma, ids, (keep, absent) = self.batch(self.step)
        mix = sigma[:, None, None, None]
        velocity = self._velocity((1 - mix) * clean + mix * noise, sigma, ids, keep, absent)
        residual = velocity - (noise - clean)
        error = residual.square().mean()
        loss = error if self.whitening is None else self.whitening(residual)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            optimizer.step()
        kept = self.averaging(self.step)
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.model.parameters()], 1 - kept)
        self.step += 1
        return error.item()

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
            if self.step % save_every == 0 or self.step in (self.decay_from, self.steps):
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
        file = self.file if self.step <= self.decay_from else self.end_file
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "precision": self.whitening and self.whitening.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "plan": [self.decay_from, self.steps],
        }
        torch.save(state, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)

    def _checkpoint(self) -> dict[str, Any] | None:
        """The state to go on from: that of this very decay if it has begun, else that of the constant phase."""
        for file in (self.end_file, self.file):
            if not file.exists():
                continue
            state = torch.load(file, weights_only=True, map_location=self.device)
            if file == self.file or state["plan"] == [self.decay_from, self.steps]:
                break
        else:
            return None
        step = state["step"]
        if file == self.file and step > self.decay_from:
            least = step * self.recipe.batch + self.recipe.decay_samples
            raise ValueError(
                f"samples: {self.file} has seen {step * self.recipe.batch:,} samples at the constant rate, and the decay was to "
                f"start before that; give at least --samples {least}"
            )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.whitening is not None and state.get("precision"):  # a run with a plain loss has none
            self.whitening.load_state_dict(state["precision"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]

    def averaged(self) -> Denoiser:
        """A copy of the model with the averaged weights."""
        model = make_denoiser(self.recipe).to(self.device).eval()
        for weight, average in zip(model.parameters(), self.ema, strict=True):
            weight.data.copy_(average)
        return model.requires_grad_(False)
