"""Training MAGNET's LoRA: flow matching, with a mask loss on the expert layer's I2T maps (Seg4Diff, section 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ..configs import MagnetConfig
from ..families import Pipeline, denoiser_of, family_of
from ..pipelines.defaults import expert_layer
from ..pipelines.image_size import native_size, token_pixels
from ..storage.runs import RunFolder
from .checkpoint import Checkpoint, LossLog, Row
from .checks import check
from .examples import Example, TrainingSet, prepared
from .lora import save_lora
from .sampler import examples, positions_of
from .trained_weights import TrainedWeights
from .training_loss import Losses, TrainingLoss

StepProgress = Callable[[int, int, Row], None]
"""Called with (steps done, steps in all, the step's row of losses.csv)."""


def make_accelerator(mixed_precision: str, device: torch.device) -> Accelerator:
    """An accelerator of this precision, even if an earlier one of this process had another."""
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, cpu=device.type == "cpu")


class MagnetTrainer:
    """Trains the LoRA of a pipeline; `run` resumes from the folder's checkpoint.

    Only the LoRA is trained, and the mask head if the config asks for one.

    Args:
        pipe: a Stable Diffusion 3 or 3.5 pipeline without a LoRA.
        data: the training set.
        config: all settings; a folder is continued only with the same ones.
        out: the output folder: run.json, checkpoint.pt, losses.csv and pytorch_lora_weights.safetensors.
        model: the model and whatever else its numbers depend on, see `model_label`.
        accelerator: mixed precision and processes; made from the config if None.
        workers: number of processes that read images ahead.

    Raises:
        ValueError: the pipeline is not supported, or a setting is out of range or does not fit the data.
    """

    def __init__(
        self,
        pipe: Pipeline,
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
            raise ValueError("magnet: only Stable Diffusion 3 and 3.5 can be trained")
        layer = expert_layer(pipe) if config.layer is None else config.layer
        self.loss = TrainingLoss(pipe, config, layer)
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
        own = {"layer": layer, "images": data.count, "digest": data.digest}
        self.folder = RunFolder.for_study(out, "magnet", model, config, **own)
        self.checkpoint, self.log = Checkpoint(out), LossLog(out)
        self.accelerator = accelerator or make_accelerator(config.mixed_precision, self.transformer.device)
        self.step, self._updating = 0, False

    def run(self, progress: StepProgress | None = None) -> pd.DataFrame:
        """Train to the end, save the LoRA, and return losses.csv as a table; only the first process writes files."""
        first = self.accelerator.is_main_process
        with self.folder.open():
            self.weights = TrainedWeights(self.pipe, self.config, self.accelerator)
            self._resume()
            if first:
                self.log.start(self.step)
            with self._saved_on_interrupt(first):
                self._train(first, progress)
            self.accelerator.wait_for_everyone()
            self.weights.finish()
            if first:
                save_lora(self.pipe, self.folder.folder)
            self.accelerator.wait_for_everyone()
            return self.log.read()

    def _train(self, first: bool, progress: StepProgress | None) -> None:
        """The steps that are still to be done."""
        for batches in self._batches():
            row = self._train_step(batches)
            self.step += 1
            if first:
                self.log.add(row)
            self._updating = False
            if first and (self.step % self.config.save_every == 0 or self.step == self.config.steps):
                self._save()
            if first and progress is not None:
                progress(self.step, self.config.steps, row)

    @contextmanager
    def _saved_on_interrupt(self, first: bool) -> Iterator[None]:
        """On Ctrl-C save the finished steps, unless the weights were just being updated."""
        try:
            yield
        except KeyboardInterrupt:
            if first and not self._updating:
                self._save()
            raise

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is not None:
            self.weights.restore(state)
            self.step = state["step"]

    def _save(self) -> None:
        self.checkpoint.save({"step": self.step, **self.weights.state()})

    def _batches(self) -> Iterator[list[tuple[range, list[Example]]]]:
        """For each step from the current one on, its forward passes: positions in the order of training, and examples."""
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
        """The learning rate: a linear warm-up, times a cosine over all steps."""
        warm = min(1.0, (step + 1) / self.config.warmup) if self.config.warmup else 1.0
        return self.config.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.config.steps))

    def _losses(self, chosen: Sequence[Example], positions: Sequence[int]) -> Losses:
        given = (self.weights.model, chosen, positions, self.weights.head)
        losses = self.loss(*given)
        if not math.isfinite(losses.total.item()):
            self.loss.check_attention(*given)
            raise ValueError(
                f"magnet: the loss is not finite at step {self.step}; use bf16 instead of fp16, or a smaller --lr"
            )
        return losses

    def _train_step(self, batches: Sequence[tuple[range, list[Example]]]) -> Row:
        """One optimizer step; the forward passes' gradients are averaged."""
        weights, parts = self.weights, []
        for number, (positions, chosen) in enumerate(batches):
            last = number + 1 == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(weights.model):
                losses = self._losses(chosen, positions)
                self.accelerator.backward(losses.total / len(batches))
            mask = losses.mask
            parts.append([losses.total.item(), losses.flow.item(), mask.focal.item(), mask.dice.item(), mask.pairs])
        self._updating = True
        rate = self.rate(self.step)
        gradient = weights.update(rate)
        means = torch.tensor(parts, dtype=torch.float32).mean(0).to(self.accelerator.device)
        shared = self.accelerator.reduce(means, "mean").tolist()
        names = ("loss", "flow", "focal", "dice", "pairs")
        return {"step": self.step, **dict(zip(names, shared, strict=True)), "rate": rate, "gradient": gradient}
