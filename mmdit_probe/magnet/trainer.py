"""Training MAGNET's LoRA: flow matching, with a mask loss on the expert layer's I2T maps (Seg4Diff, section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from ..configs import MagnetConfig, as_dict
from ..families import constant_shift, denoiser_of, family_of
from ..pipelines.defaults import expert_layer, text_length
from ..pipelines.forward import PromptEmbeddings, encode_images, encode_prompts, transformer_arguments
from ..pipelines.image_size import native_size, token_pixels
from ..pipelines.prompts import first_encoder
from ..probe.probe import Probe
from ..readouts.region_mass import RegionMass
from ..segmentation.class_prompts import class_prompts
from ..storage.runs import RunFolder
from ..utils.memory import check_room
from .checkpoint import Checkpoint, LossLog, Row
from .checks import check
from .examples import Example, TrainingSet, first_sentences, prepared
from .i2t_logits import AttentionTap, MaskHead
from .lora import add_lora, lora_weights, save_lora, set_lora_weights
from .objective import MaskLoss, Target, mask_loss
from .sampler import examples, noise_at, positions_of

Progress = Callable[[int, int, Row], None]
"""Called with (steps done, steps in all, the step's row of losses.csv)."""


class Losses(NamedTuple):
    """The parts of one forward pass's loss."""

    total: Tensor
    flow: Tensor
    mask: MaskLoss


def make_accelerator(mixed_precision: str, device: torch.device) -> Accelerator:
    """One for this run, whatever precision an earlier run of this process had."""
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, cpu=device.type == "cpu")


class MagnetTrainer:
    """Trains the LoRA of a pipeline; `run` resumes from the folder's checkpoint.

    Args:
        pipe: a Stable Diffusion 3 or 3.5 pipeline without a LoRA.
        data: what it learns from.
        config: all settings; with the same ones a folder is continued.
        out: gets run.json, checkpoint.pt, losses.csv and pytorch_lora_weights.safetensors.
        model: what the numbers depend on, in words; a folder is continued only with the same.
        accelerator: mixed precision and processes; made from the config if None.
        workers: processes that read images ahead.

    Gradients reach the LoRA alone (and the mask head, if there is one). `ValueError` before any work if a setting is wrong.
    """

    def __init__(
        self,
        pipe: Any,
        data: TrainingSet,
        config: MagnetConfig,
        out: Path,
        model: str,
        accelerator: Accelerator | None = None,
        workers: int = 0,
    ) -> None:
        check(config, data)
        self.pipe, self.data, self.config, self.workers = pipe, data, config, workers
        self.transformer = denoiser_of(pipe)
        if family_of(self.transformer).name != "sd3":
            raise ValueError("magnet: trains Stable Diffusion 3 and 3.5 only")
        self.layer = expert_layer(pipe) if config.layer is None else config.layer
        self.tap = AttentionTap(self.layer)
        self.probe = Probe(pipe, [], edits=[self.tap])  # a layer that does not exist fails here
        self.text_positions = text_length(pipe, config.max_sequence_length)
        side = native_size(pipe)
        grid = side // token_pixels(pipe)
        self.prepare = partial(
            prepared,
            side=side,
            grid=(grid, grid),
            crop=config.crop,
            least_area=config.least_area,
            most_masks=config.most_masks,
        )
        settings = {"study": "magnet", "model": model, **as_dict(config), "layer": self.layer}
        settings |= {"images": data.count, "digest": data.digest}
        self.folder = RunFolder(out, settings)
        self.checkpoint, self.log = Checkpoint(out), LossLog(out)
        self.accelerator = accelerator or make_accelerator(config.mixed_precision, self.transformer.device)
        self.step, self._midway = 0, False

    def run(self, progress: Progress | None = None) -> pd.DataFrame:
        """Train to the end and write the LoRA; returns losses.csv as a table (the first process alone writes)."""
        first = self.accelerator.is_main_process
        with self.folder.open() if first else nullcontext():
            self.accelerator.wait_for_everyone()  # for the first process to have made the folder
            self._build()
            self._resume()
            if first:
                self.log.start(self.step)
            with self._interrupts_kept(first):
                for batches in self._steps():
                    row = self._train_step(batches)
                    self.step += 1
                    if first:
                        self.log.add(row)
                    self._midway = False
                    if first and (self.step % self.config.save_every == 0 or self.step == self.config.steps):
                        self.checkpoint.save(self._state())
                    if first and progress is not None:
                        progress(self.step, self.config.steps, row)
            self.accelerator.wait_for_everyone()
            self._finish()
            return self.log.read()

    @contextmanager
    def _interrupts_kept(self, first: bool) -> Iterator[None]:
        """On Ctrl-C the steps that are finished are kept, unless it came while weights were being changed."""
        try:
            yield
        except KeyboardInterrupt:
            if first and not self._midway:
                self.checkpoint.save(self._state())
            raise

    def _build(self) -> None:
        config = self.config
        self.weights = add_lora(self.pipe, config.rank, config.seed)
        self.average = [w.detach().clone() for w in self.weights] if config.ema is not None else None
        torch.manual_seed(config.seed)
        self.head = MaskHead().to(self.transformer.device) if config.mask_head else None
        self.trained = [*self.weights, *(self.head.parameters() if self.head is not None else ())]
        copies = 5 if config.ema is not None else 4  # the weights, their gradients, AdamW's two averages, and their own
        count = sum(weight.numel() for weight in self.trained)
        check_room(f"{count} weights to train", 4 * copies * count, advice="take a smaller --rank")
        optimizer = torch.optim.AdamW(self.trained, lr=config.rate, weight_decay=config.weight_decay)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.transformer.train()
        self.model = self.accelerator.prepare_model(self.transformer, device_placement=False)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer, device_placement=False)

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        set_lora_weights(self.transformer, state["lora"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average = [average.to(w.device) for average, w in zip(state["average"], self.weights, strict=True)]
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def _state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "lora": lora_weights(self.transformer),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "head": None if self.head is None else self.head.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _steps(self) -> Iterator[list[tuple[range, list[Example]]]]:
        """The examples of every step from the current one on, with their positions."""
        config, accelerator = self.config, self.accelerator
        own = partial(
            positions_of,
            batch=config.batch,
            accumulate=config.accumulate,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        chosen = [own(step, micro) for step in range(self.step, config.steps) for micro in range(config.accumulate)]
        read = examples(self.data, config.seed, self.prepare, chosen, self.workers)
        for start in range(0, len(chosen), config.accumulate):
            yield [(positions, next(read)) for positions in chosen[start : start + config.accumulate]]

    def rate(self, step: int) -> float:
        """Linear warm-up, times a cosine over all steps."""
        warm = min(1.0, (step + 1) / self.config.warmup) if self.config.warmup else 1.0
        return self.config.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def _train_step(self, batches: Sequence[tuple[range, list[Example]]]) -> Row:
        rate = self.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = []
        for number, (positions, chosen) in enumerate(batches):
            last = number + 1 == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses = self.losses(chosen, positions)
                self._check_finite(losses, chosen, positions)
                self.accelerator.backward(losses.total / len(batches))
            mask = losses.mask
            parts.append([losses.total.item(), losses.flow.item(), mask.focal.item(), mask.dice.item(), mask.pairs])
        self._midway = True
        self._share_head()
        gradient = self.accelerator.clip_grad_norm_(self.trained, self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - float(self.config.ema or 0))
        means = torch.tensor(parts, dtype=torch.float32).mean(0).to(self.accelerator.device)
        shared = self.accelerator.reduce(means, "mean").tolist()
        names = ("loss", "flow", "focal", "dice", "pairs")
        return {"step": self.step, **dict(zip(names, shared, strict=True)), "rate": rate, "gradient": float(gradient)}

    def _share_head(self) -> None:
        """The mask head's gradients, mean over the processes, as the transformer's are; none where no process has any.

        By hand: a process whose images have no masks does not run the head, which a wrapped one would wait for.
        """
        if self.head is None or self.accelerator.num_processes == 1:
            return
        weights = list(self.head.parameters())
        own = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        ran = own[0].new_tensor([float(any(weight.grad is not None for weight in weights))])
        shared = self.accelerator.reduce(torch.cat([ran, *(gradient.flatten() for gradient in own)]), "mean")
        if shared[0] > 0:
            for weight, gradient in zip(weights, shared[1:].split([w.numel() for w in weights]), strict=True):
                weight.grad = gradient.view_as(weight)

    def _check_finite(self, losses: Losses, chosen: Sequence[Example], positions: Sequence[int]) -> None:
        if math.isfinite(losses.total.item()):
            return
        with torch.no_grad(), Probe(self.pipe, [RegionMass()]):  # names the layer, if it is one of them
            self.losses(chosen, positions)
        raise ValueError(
            f"magnet: the loss is not finite at step {self.step}; use bf16 instead of fp16, or a smaller --lr"
        )

    def losses(self, chosen: Sequence[Example], positions: Sequence[int]) -> Losses:
        """One forward pass: flow matching, and the mask loss if it has any weight."""
        features, targets = self._text(chosen)
        clean = encode_images(self.pipe, [example.pixels for example in chosen])
        noise, sigma = self._noise(positions, clean)
        mix = sigma[:, None, None, None]
        noisy = ((1 - mix) * clean.float() + mix * noise).to(clean.dtype)
        with self.probe:
            velocity = self.model(**transformer_arguments(self.pipe, noisy, sigma, features)).sample
        attention = self.tap.take()
        flow = (velocity.float() - (noise - clean.float())).square().mean()
        config = self.config
        with torch.set_grad_enabled(config.mask_weight > 0):
            mask = mask_loss(attention, targets, config, self.head)
        weighted = config.focal_weight * mask.focal + config.dice_weight * mask.dice
        return Losses(flow + config.mask_weight * weighted, flow, mask)

    def _noise(self, positions: Sequence[int], clean: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and noise levels in fp32, whatever the weights are: bf16 would round a timestep to a multiple of 4."""
        config, shift = self.config, constant_shift(self.pipe)
        drawn = [
            noise_at(p, clean.shape[1:], config.seed, config.noise_mean, config.noise_std, shift) for p in positions
        ]
        noise = torch.stack([noise for noise, _ in drawn]).to(clean.device)
        return noise, torch.tensor([sigma for _, sigma in drawn], device=clean.device)

    def _text(self, chosen: Sequence[Example]) -> tuple[PromptEmbeddings, list[Target]]:
        """The prompts' features, and what the maps of each prompt's tokens are compared with."""
        if self.config.matching == "token":
            asked = [self._names(example) for example in chosen]
            return self._encode([prompt for prompt, _ in asked]), [target for _, target in asked]
        features = self._encode([first_sentences(example.caption, self.config.sentences) for example in chosen])
        return features, [
            Target(example.masks, positions=np.flatnonzero(row).tolist())
            for example, row in zip(chosen, first_encoder(features.text), strict=True)
        ]

    def _encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        return encode_prompts(self.pipe, prompts, self.text_positions)

    def _names(self, example: Example) -> tuple[str, Target]:
        """The class names that one prompt holds, and their masks."""
        if not example.names:
            return "", Target(example.masks[:0])
        prompt = class_prompts(self.pipe, example.names, self.text_positions)[0]
        return prompt.prompt, Target(example.masks[list(prompt.numbers)], prompt.spans)

    def _finish(self) -> None:
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.transformer.eval()
        if self.average is not None:
            for weight, average in zip(self.weights, self.average, strict=True):
                weight.data.copy_(average)
        if self.accelerator.is_main_process:
            save_lora(self.pipe, self.folder.folder)
        self.accelerator.wait_for_everyone()
