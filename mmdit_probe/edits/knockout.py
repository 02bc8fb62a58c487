"""Removing attention to words, other text tokens or along whole edges; or spreading it evenly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..attention.edges import EdgeLayout, on_edge
from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import Region, TokenLayout, TokenStream
from ..attention.scores import mask_block
from .base import AttentionBlock, Edit


class Uniform(Edit):
    """Replace the I2T probabilities by their mean over the text tokens: each query keeps its mass on the text.

    The same on any other ``edge``, such as I2R: each query keeps its mass on the reference images. With ``words`` or
    ``kinds`` the mean is over those tokens alone.
    """

    def change(self, block: AttentionBlock) -> Tensor:
        chosen = self.chosen_tokens(block)
        probs = block.image_probs * chosen
        mean = probs.sum(-1, keepdim=True) * (chosen / chosen.sum(-1, keepdim=True).clamp(min=1))
        return block.with_image(block.image_output + (mean - probs) @ block.values)


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

    def change(self, block: AttentionBlock) -> Tensor:
        probs, output = block.image_probs * self.chosen_tokens(block), block.image_output
        mass, from_chosen = probs.sum(-1, keepdim=True), probs @ block.values
        whole = block.layout.whole if isinstance(block.layout, EdgeLayout) else block.layout
        if self._by_the_rest(whole):
            kept, left = from_chosen, mass
            return block.with_image(kept / left.clamp(min=1e-6) * (left > 1e-6) if self.renormalize else kept)
        kept, left = output - from_chosen, 1 - mass
        if self.renormalize:
            kept = _renormalized(block, self.chosen_tokens(block), kept, left)
        return block.with_image(kept)

    def _by_the_rest(self, layout: TokenLayout) -> bool:
        """Whether the text keys are all that is left without the edge: they are fewer, and nothing is lost by subtraction."""
        return self.edge in layout.regions & {Region.I2I, Region.T2I} and not layout.reference + layout.extra


_LITTLE = 0.1
"""Where less of a query's attention is left, what is left is computed by itself: as a difference it would lose digits."""


def _renormalized(block: AttentionBlock, chosen: Tensor, kept: Tensor, left: Tensor) -> Tensor:
    """``kept / left``, 0 for queries that lose all of their attention."""
    plain = block.attention.output[block.batch, block.heads][:, :, block.layout.image_queries]
    few = (left < _LITTLE).flatten(0, 1).any(0)[:, 0].nonzero()[:, 0]
    scaled = kept / left.clamp(min=1e-6) * (left > 1e-6)
    if torch.equal(block.image_output, exact(plain)):  # else an edit before this one has changed what is left
        for rows in few.split(block.attention.row_chunk):
            scaled[:, :, rows] = _without(block, chosen, rows)
    return scaled


def _without(block: AttentionBlock, chosen: Tensor, rows: Tensor) -> Tensor:
    """The output of some image queries whose attention to the chosen keys is forbidden, from explicit scores."""
    call, part, every = block.attention.call, (block.batch, block.heads), slice(0, block.layout.keys)
    rows = rows + block.layout.image_queries.start
    key, value = (
        exact(tensor[block.batch].repeat_interleave(call.heads // tensor.shape[1], 1)[:, block.heads])
        for tensor in (call.key, call.value)
    )
    scores = exact(call.query[part][:, :, rows]) @ (key * call.scale).transpose(-1, -2)
    mask = mask_block(call, rows, every)
    if mask is not None:
        scores += mask[part]
    removed = torch.zeros(len(chosen), 1, 1, every.stop, dtype=torch.bool, device=scores.device)
    removed[..., block.layout.text_keys] = chosen > 0
    return scores.masked_fill(removed, -torch.inf).softmax(-1).nan_to_num(0) @ value
