"""RemoveKeys: some keys taken out of the image queries' softmax: words, kinds, chosen positions, sinks, or random ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .attention_block import AttentionBlock
from .base import Edit, spelled_tokens
from .removal import without_keys


class RemoveKeys(Edit):
    """Take keys out of the softmax of image queries: ``o' = (o - sum_S p v) / (1 - sum_S p)``, exact.

    The keys S are those that any argument names, for every batch row and head. The control of an experiment with ``sinks``
    is ``random`` of the same number (arXiv 2605.09313 removes sinks from SD3's layer 12). Text queries stay as they are, and
    a query that loses all of its attention gets 0.

    Args:
        layer: a layer number or several; None for every layer.
        keys: positions among the call's keys, in the layout's order (`TokenLayout.image_keys`, ``text_keys``).
        sinks: so many keys, those of all keys that the image queries attend to most, on average over the queries.
        random: so many keys drawn from all that the model does not mask, each head its own, the same at every step.
        seed: of the draw.
        where: heads, steps, words, kinds and batch, see `Edit`. ``words`` and ``kinds`` name text keys to take out.

    Raises:
        ValueError: no keys are named, or there are fewer keys than that.

    >>> from mmdit_probe import Probe, RemoveKeys, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[RemoveKeys(7, sinks=1)]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    takes_edge = False

    def __init__(
        self,
        layer: int | Collection[int] | None,
        *,
        keys: Collection[int] = (),
        sinks: int = 0,
        random: int = 0,
        seed: int = 0,
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        if sinks < 0 or random < 0 or any(key < 0 for key in keys):
            raise ValueError("RemoveKeys: keys are positions from 0 on, sinks and random numbers of keys")
        self.keys, self.sinks, self.random, self.seed = tuple(keys), sinks, random, seed

    @property
    def is_identity(self) -> bool:
        return not (self.keys or self.sinks or self.random or self.words or self.kinds)

    def change(self, block: AttentionBlock) -> AttentionBlock:
        return without_keys(block, self.removed(block))

    def changes(self, layout: TokenLayout) -> tuple[tuple[slice, slice], ...]:
        return ()  # what is removed for the image is known without

    def removed(self, block: AttentionBlock) -> Tensor:
        """(batch, heads, keys) bool: the keys that are taken out."""
        attention, layout = block.attention, block.layout
        most = max([self.sinks, self.random, *(key + 1 for key in self.keys)])
        if most > layout.keys:
            raise ValueError(f"RemoveKeys: layer {attention.layer} has {layout.keys} keys, {most} are asked for")
        removed = torch.zeros(*block.output.shape[:2], layout.keys, dtype=torch.bool, device=block.output.device)
        removed[:, :, list(self.keys)] = True
        if self.words or self.kinds:
            text = spelled_tokens(block.text, self.words, self.kinds)[block.batch]
            removed[:, :, layout.text_keys] |= torch.from_numpy(text)[:, None].to(removed.device)
        if self.sinks:
            removed.scatter_(-1, mean_mass(block).topk(self.sinks, -1).indices, True)
        if self.random:
            removed |= torch.from_numpy(self._drawn(attention)[block.batch, block.heads]).to(removed.device)
        return removed

    def _drawn(self, attention: JointAttention) -> np.ndarray:
        """(batch, heads, keys) bool: random keys of each head, the same in every call of the layer, none that is masked."""
        stream = np.random.default_rng([self.seed, attention.layer])
        seen = attention.seen_keys.cpu().numpy()
        fewest = int(seen.sum(1).min())
        if self.random > fewest:
            raise ValueError(
                f"RemoveKeys: layer {attention.layer} has {fewest} keys that are not masked, {self.random} are asked for"
            )
        order = np.argsort(stream.random((1, attention.heads, attention.layout.keys)) + ~seen[:, None], -1)
        drawn = np.zeros(order.shape, bool)
        np.put_along_axis(drawn, order[..., : self.random], True, -1)
        return drawn


def mean_mass(block: AttentionBlock) -> Tensor:
    """(batch, heads, keys): the mean probability of the image queries on each key, of the call as the kernel saw it."""
    attention, layout = block.attention, block.layout
    first, stop = layout.image_queries.start, layout.image_queries.stop
    mass = block.output.new_zeros(attention.batch, attention.heads, layout.keys)
    for start in range(first, stop, attention.row_chunk):
        rows = slice(start, min(start + attention.row_chunk, stop))
        for found in attention.blocks(rows, slice(0, layout.keys)):
            mass[found.batch, found.heads] += found.probs.sum(2) / layout.image
    return mass[block.batch, block.heads]
