"""SelfAttend: image tokens attend to themselves, as in perturbed-attention guidance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ..attention.layout import TokenLayout
from .attention_block import AttentionBlock, values_at
from .base import Edit


class SelfAttend(Edit):
    """Each image query attends to its own token by ``amount`` and as before by the rest: ``o' = (1 - u) o + u v``.

    At 1 the attention of the image becomes the identity matrix (perturbed-attention guidance), between 0 and 1 it is the
    soft form of HeadHunter (arXiv 2506.10978); 0 changes nothing. Text queries stay as they are. `ValueError` in
    cross-attention, whose image tokens have no value of their own.

    >>> from mmdit_probe import Probe, SelfAttend, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[SelfAttend(7, 0.5, heads=[2])]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    takes_edge = False

    def __init__(self, layer: int | Collection[int] | None, amount: float, **where: Any) -> None:
        super().__init__(layer, **where)
        if not 0 <= amount <= 1:
            raise ValueError(f"SelfAttend: amount must be in 0 to 1, got {amount}")
        if self.words or self.kinds:
            raise ValueError(
                "SelfAttend: image queries are changed, which words and kinds do not choose; leave them out"
            )
        self.amount = amount

    @property
    def is_identity(self) -> bool:
        return self.amount == 0

    def change(self, block: AttentionBlock) -> AttentionBlock:
        layout = block.layout
        if layout.scope == "cross":
            raise ValueError("SelfAttend: this is cross-attention, whose image tokens have no values to attend to")
        own = values_at(block.attention, layout.image_keys)[block.batch, block.heads]
        rows, kept = layout.image_queries, 1 - self.amount
        scale, given = block.scale.clone(), block.own.clone()
        scale[:, :, rows] *= kept
        given[:, :, rows] = kept * given[:, :, rows] + self.amount
        total = kept * block.total[:, :, rows] + self.amount
        output = block.image_output.lerp(own, self.amount)
        return replace(block.with_image_probs(kept * block.image_probs, output, total), scale=scale, own=given)

    def changes(self, layout: TokenLayout) -> tuple[tuple[slice, slice], ...]:
        return ()
