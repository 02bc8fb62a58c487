"""Sharpening or flattening what image queries give to text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .base import AttentionBlock, Edit


class Scale(Edit):
    """Multiply the I2T scores by ``factor`` before the softmax (temperature 1 / factor), rows renormalized.

    A factor over 1 sharpens and, where text scores are positive, strengthens what the image takes from text; 1 changes
    nothing. Exact from the text columns: the image keys' share of each row is what the text leaves.
    """

    def __init__(self, layer: int | Collection[int], factor: float, **where: Any) -> None:
        super().__init__(layer, **where)
        if not 0 < factor < float("inf"):
            raise ValueError(f"Scale: factor must be a positive number, got {factor}")
        self.factor = factor

    def change(self, view: AttentionBlock) -> Tensor:
        probs, lse = view.image_probs, view.lse[:, :, view.layout.image_queries, None]
        scores = (1 + (self.factor - 1) * self.chosen_tokens(view)) * (probs.log() + lse)
        image_lse = lse + torch.log1p(-probs.sum(-1, keepdim=True).clamp(max=1))
        total = torch.logaddexp(image_lse, scores.logsumexp(-1, keepdim=True))
        from_image = view.image_output - probs @ view.values
        return view.with_image((lse - total).exp() * from_image + (scores - total).exp() @ view.values)
