"""Scale: sharper or flatter attention from image to text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from .base import AttentionBlock, Edit
from .reweighting import reweighted


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

    @property
    def is_identity(self) -> bool:
        return self.factor == 1

    def change(self, block: AttentionBlock) -> AttentionBlock:
        probs, lse = block.image_probs, block.lse[:, :, block.layout.image_queries, None]
        shares = probs / block.image_total
        scores = torch.where(shares > 0, shares.log() + lse, 0)
        return reweighted(block, (self.factor - 1) * self.chosen_tokens(block) * scores)
