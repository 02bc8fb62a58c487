"""Removing attention to words, other text tokens or along whole edges; or spreading it evenly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ..attention.edges import on_edge
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout, TokenStream
from .base import AttentionBlock, Edit
from .removal import noted, whole, without_keys


class Uniform(Edit):
    """Replace the I2T probabilities by their mean over the text tokens: each query keeps its mass on the text.

    The same on any other ``edge``, such as I2R: each query keeps its mass on the reference images. With ``words`` or
    ``kinds`` the mean is over those tokens alone. Tokens that the model masks, such as padding, get nothing.
    """

    def change(self, block: AttentionBlock) -> AttentionBlock:
        seen = block.attention.seen_keys[block.batch, None, None, block.layout.text_keys]
        chosen = self.chosen_tokens(block) * seen
        probs = block.image_probs * chosen
        mean = probs.sum(-1, keepdim=True) * (chosen / chosen.sum(-1, keepdim=True).clamp(min=1))
        output = block.image_output + (mean - probs) @ block.values
        return block.with_image_probs(torch.where(chosen > 0, mean, block.image_probs), output)


class Knockout(Edit):
    """Set the probabilities of an edge, or of some of its text keys, to 0.

    Args:
        layer: a layer number or several.
        edge: I2I, I2T, T2I, T2T and, where there are reference images, I2R, T2R, R2I, R2T or R2R.
        renormalize: scale what is left so that each query's probabilities sum to 1 again. A query that loses all of
            its attention gets 0.
        where: heads, steps, words, kinds, references and batch, see `Edit`. ``words`` and ``kinds`` choose text keys of I2T,
            T2T or R2T, ``references`` the reference images of an edge with R.

    >>> from mmdit_probe import Knockout, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Knockout([6, 7], words=["red"])]):  # image queries no longer see "red"
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(
        self,
        layer: int | Collection[int],
        edge: Region | str = Region.I2T,
        *,
        renormalize: bool = True,
        **where: Any,
    ) -> None:
        super().__init__(layer, edge=edge, **where)
        self.renormalize = renormalize

    def viewed(self, attention: JointAttention) -> JointAttention:
        if not self._by_the_rest(attention.layout):
            return super().viewed(attention)
        return on_edge(attention, Region(f"{self.edge.asking}2{TokenStream.TEXT}"))

    def change(self, block: AttentionBlock) -> AttentionBlock:
        chosen, layout = self.chosen_tokens(block), whole(block.layout)
        removed = torch.zeros_like(block.removed)
        if self._by_the_rest(layout):
            removed[:, :, layout.image_keys] = True
            return self._only_text(noted(block, removed))
        removed[:, :, block.layout.text_keys] = (chosen > 0)[:, :, 0]
        if self.renormalize:
            return without_keys(block, removed)
        probs = block.image_probs * chosen
        return noted(block, removed).with_image_probs(
            block.image_probs - probs, block.image_output - probs @ block.values
        )

    def _only_text(self, block: AttentionBlock) -> AttentionBlock:
        probs, sums = block.image_probs, block.image_total
        mass = probs.sum(-1, keepdim=True)
        if not self.renormalize:
            return block.with_image_probs(probs, probs @ block.values, mass[..., 0])
        left = mass / sums
        scale = (left > 0) / left.where(left > 0, 1)
        total, gain = (sums * (left > 0))[..., 0], left.where(left > 0, 1).log()[..., 0]
        return block.with_image_probs(probs * scale, probs @ block.values * scale, total, gain)

    def changes(self, layout: TokenLayout) -> tuple[tuple[slice, slice], ...]:
        if self.edge.asking == TokenStream.IMAGE:
            return ()  # what is removed for the image is known without
        call = whole(layout)
        return ((layout.image_queries, call.image_keys if self._by_the_rest(call) else layout.text_keys),)

    def _by_the_rest(self, layout: TokenLayout) -> bool:
        """Whether the text keys are all that is left without the edge: they are fewer, and nothing is lost by subtraction."""
        return self.edge in layout.regions & {Region.I2I, Region.T2I} and not layout.reference + layout.extra
