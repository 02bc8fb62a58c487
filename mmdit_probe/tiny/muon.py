"""Muon in float32: momentum whose updates are orthogonalized, for the matrices inside a transformer.

PyTorch's own `torch.optim.Muon` orthogonalizes in bfloat16, which many CPUs have no arithmetic for, and one matrix at a time;
here matrices of one shape are orthogonalized together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, chosen by Keller Jordan et al. to reach singular values near 1 in few steps."""
_ADAM_RMS = 0.2
"""Root mean square of an AdamW update, which Muon's updates are scaled to, so that both take one rate (Moonlight, eq. 4)."""


def orthogonalized(matrices: Tensor, iterations: int = 5) -> Tensor:
    """(n, rows, columns) with the singular vectors of ``matrices`` and singular values brought near 1 (about 0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum, whose update of each matrix is orthogonalized; decoupled weight decay."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        shapes = [weight.shape for group in self.param_groups for weight in group["params"] if weight.ndim != 2]
        if shapes:
            raise ValueError(f"Muon: parameters must be matrices, got one of shape {tuple(shapes[0])}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters that have gradients; ``closure`` computes them first and gives the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for weights in alike.values():
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = torch.stack([weight.grad for weight in weights if weight.grad is not None])
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(buffers, list(gradients), 1 - group["momentum"])
        update = orthogonalized(gradients.lerp(torch.stack(buffers), group["momentum"]))
        scale = _ADAM_RMS * max(update.shape[-2:]) ** 0.5
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(update), alpha=-group["lr"] * scale)
