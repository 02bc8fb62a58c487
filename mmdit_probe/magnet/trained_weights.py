"""The weights that MAGNET trains, with their optimizer and their moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from ..configs import MagnetConfig
from ..families import Pipeline, denoiser_of
from ..utils.memory import check_room
from .i2t_logits import MaskHead
from .lora import add_lora, lora_weights, set_lora_weights


class TrainedWeights:
    """The LoRA of a pipeline and, if the config asks for it, the mask head; everything else is frozen.

    Attributes:
        model: the transformer with its LoRA, as the accelerator wraps it.
        lora: the LoRA's parameters, in fp32.
        average: their exponential moving average, None without ``ema``.
        head: the mask head, None if there is none.
        trained: the parameters of the LoRA and the head.
    """

    def __init__(self, pipe: Pipeline, config: MagnetConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator, self.transformer = config, accelerator, denoiser_of(pipe)
        self.lora = add_lora(pipe, config.rank, config.seed)
        self.average = [w.detach().clone() for w in self.lora] if config.ema is not None else None
        torch.manual_seed(config.seed)
        self.head = MaskHead().to(self.transformer.device) if config.mask_head else None
        self.trained = [*self.lora, *(self.head.parameters() if self.head is not None else ())]
        copies = 5 if config.ema is not None else 4  # weights, gradients, AdamW's two moments, and the average
        count = sum(weight.numel() for weight in self.trained)
        check_room(f"{count} weights to train", 4 * copies * count, advice="take a smaller --rank")
        optimizer = torch.optim.AdamW(self.trained, lr=config.rate, weight_decay=config.weight_decay)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.transformer.train()
        self.model = accelerator.prepare_model(self.transformer, device_placement=False)
        self.optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)

    def state(self) -> dict[str, Any]:
        """Everything that training needs to continue exactly."""
        scaler = self.accelerator.scaler
        return {
            "lora": lora_weights(self.transformer),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "head": None if self.head is None else self.head.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        set_lora_weights(self.transformer, state["lora"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average = [average.to(w.device) for average, w in zip(state["average"], self.lora, strict=True)]
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def update(self, rate: float) -> float:
        """One optimizer step at learning rate ``rate``; returns the L2 norm of all gradients before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._share_head()
        gradient = self.accelerator.clip_grad_norm_(self.trained, self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            torch._foreach_lerp_(self.average, [w.detach() for w in self.lora], 1 - float(self.config.ema or 0))
        return float(gradient)

    def _share_head(self) -> None:
        """Average the mask head's gradients over the processes, as the wrapped transformer's are.

        Done by hand, because a process whose images have no masks never runs the head, and a wrapped head would wait for
        it. Nothing changes if no process has run it.
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

    def finish(self) -> None:
        """Unwrap the transformer and give it the averaged LoRA, if there is an average."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.transformer.eval()
        if self.average is not None:
            for weight, average in zip(self.lora, self.average, strict=True):
                weight.data.copy_(average)
