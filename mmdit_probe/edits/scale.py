"""Scale: sharper or flatter attention from image to text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .base import AttentionBlock, Edit


class Scale(Edit):
    """Multiply the I2T scores by ``factor`` before the softmax (temperature 1 / factor).

    A factor above 1 sharpens the attention over text and, if text scores are positive, gives the text more of it; 1
    changes nothing. Exact, from the text columns alone: the image keys get what the text leaves.

    >>> from mmdit_probe import Probe, Scale, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Scale(7, factor=1.5, words=["red"])]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(self, layer: int | Collection[int], factor: float, **where: Any) -> None:
        super().__init__(layer, **where)
        if not 0 < factor < float("inf"):
            raise ValueError(f"Scale: factor must be a positive number, got {factor}")
        self.factor = factor

    def change(self, block: AttentionBlock) -> Tensor:
        probs, lse = block.image_probs, block.lse[:, :, block.layout.image_queries, None]
        scores = (1 + (self.factor - 1) * self.chosen_tokens(block)) * (probs.log() + lse)
        image_lse = lse + torch.log1p(-probs.sum(-1, keepdim=True).clamp(max=1))
        total = torch.logaddexp(image_lse, scores.logsumexp(-1, keepdim=True))
        from_image = block.image_output - probs @ block.values
        return block.with_image((lse - total).exp() * from_image + (scores - total).exp() @ block.values)
