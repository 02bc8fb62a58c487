"""A loss that gives every direction of latent space its say.

In the mean squared error the directions that nobody can predict, a texture's details, drown those that the caption decides, a
shape's outline and color: in tiny-sd3 the residual's variance differs sixtyfold between directions. Weighing the error by the
inverse of the residual's covariance moves no minimum, since the best prediction, the conditional mean, is the same under any
positive definite weight; it changes what is learned first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_KEPT = 0.99
"""The share of the running covariance that stays at each step."""
_LEAST = 1e-3
"""Added to the variances, so that a direction that is predicted without error keeps a finite weight."""


class ResidualPrecision(nn.Module):
    """Mean of r^T C^-1 r per channel, where C is the running covariance of the residuals r over samples and places."""

    covariance: Tensor
    steps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("covariance", torch.eye(channels))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, residual: Tensor) -> Tensor:
        """The loss of a residual (samples, channels, rows, columns), which first enters the covariance; about 1."""
        rows = residual.movedim(1, -1).flatten(0, -2)
        seen = rows.detach()
        kept = min(_KEPT, self.steps.item() / (1 + self.steps.item()))
        self.covariance.lerp_(seen.T @ seen / len(seen), 1 - kept)
        self.steps += 1
        least = _LEAST * torch.eye(len(self.covariance), device=rows.device)
        return (rows @ torch.linalg.inv(self.covariance + least) * rows).mean()
