"""What a call's blocks add up to: region masses, and I2T and T2I maps.

The sums take one block at a time, so that several of them can share the blocks of one call, as readouts do. The
functions run through the blocks for one sum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..configs.single_image import Heads
from .blocks import Block
from .joint import JointAttention
from .layout import REGIONS, Region, TokenLayout
from .scores import LEFT_OUT


class MapSum:
    """Maps of one call from the values of its blocks: averaged over heads, or with an axis of heads.

    ``maps`` is (batch, [heads,] rows, cols) in fp32.
    """

    def __init__(self, attention: JointAttention, rows: int, cols: int, heads: Heads = "mean") -> None:
        self.heads, self.all_heads = heads, attention.heads
        leading = (attention.batch,) if heads == "mean" else (attention.batch, attention.heads)
        self.maps = attention.query.new_zeros(*leading, rows, cols, dtype=torch.float32)

    def add_values(self, block: Block, values: Float[Tensor, "batch heads rows cols"]) -> None:
        """Add what was computed from a block, for the block's batch rows and heads."""
        if self.heads == "all":
            self.maps[block.batch, block.heads] = values
        elif values.shape[1] == 1:
            self.maps[block.batch].add_(values[:, 0], alpha=1 / self.all_heads)
        else:
            self.maps[block.batch].add_(values.sum(1), alpha=1 / self.all_heads)


class I2TSum(MapSum):
    """I2T maps (batch, [heads,] image, text) from the text columns."""

    def __init__(self, attention: JointAttention, heads: Heads = "mean") -> None:
        self.image = attention.layout.image_queries
        super().__init__(attention, attention.layout.image, attention.layout.text, heads)

    def add(self, block: Block) -> None:
        """Add a block of the text columns."""
        self.add_values(block, block.probs[:, :, self.image])


class T2ISum(MapSum):
    """T2I maps (batch, [heads,] text, image) from the text rows; NaN if text does not attend in this model."""

    def __init__(self, attention: JointAttention, heads: Heads = "mean") -> None:
        super().__init__(attention, attention.layout.text, attention.layout.image, heads)
        if Region.T2I not in attention.layout.regions:
            self.maps.fill_(torch.nan)  # there are no text rows to add

    def add(self, block: Block) -> None:
        """Add a block of the text rows."""
        self.add_values(block, block.probs)


class MassSum:
    """Mean mass that image and text queries give to the keys of the blocks: ``mass`` (batch, heads, 2), in [0, 1]."""

    def __init__(self, attention: JointAttention) -> None:
        self.attention = attention
        self.mass = attention.query.new_zeros(attention.batch, attention.heads, 2, dtype=torch.float32)

    def add(self, block: Block) -> None:
        """Add a block of all queries."""
        self.mass[block.batch, block.heads] += _mean_mass(block, self.attention.layout)

    def by_region(self) -> Float[Tensor, "batch heads 4"]:
        """The masses of I2I, I2T, T2I and T2T, from those of the text columns; see `region_mass`."""
        attention, text = self.attention, self.mass
        i2t, t2t = text.unbind(-1)
        i2i, t2i = (_row_sums(attention) - text - _extra_mass(attention)).unbind(-1)
        regions = torch.stack([i2i, i2t, t2i, t2t], -1)
        missing = [number for number, region in enumerate(REGIONS) if region not in attention.layout.regions]
        regions[..., missing] = torch.nan
        return regions


def region_mass(attention: JointAttention) -> Float[Tensor, "batch heads 4"]:
    """Mean over each region's queries of the probability mass that they give it, in [0, 1].

    Regions in the order I2I, I2T, T2I, T2T (Seg4Diff, section 3.2); NaN if the model has no such region. I2I and T2I
    are what the softmax leaves, 1 - I2T and 1 - T2T, less what the layout's extra tokens take. A query whose mask
    excludes every key counts as 0.
    """
    total = MassSum(attention)
    for block in attention.text_columns():
        total.add(block)
    return total.by_region()


def i2t_maps(attention: JointAttention, heads: Heads = "mean") -> Float[Tensor, "batch *heads image text"]:
    """Probabilities of image queries on text keys, in [0, 1]; ``heads`` "all" keeps an axis of heads."""
    total = I2TSum(attention, heads)
    for block in attention.text_columns():
        total.add(block)
    return total.maps


def t2i_maps(attention: JointAttention, heads: Heads = "mean") -> Float[Tensor, "batch *heads text image"]:
    """Probabilities of text queries on image keys, in [0, 1]; NaN if text does not attend in this model."""
    total = T2ISum(attention, heads)
    for block in attention.text_rows():
        total.add(block)
    return total.maps


def _row_sums(attention: JointAttention) -> Float[Tensor, "batch heads 2"]:
    """Mean row sum of image and of text queries: 1, less the share of queries that may attend to nothing."""
    mask, layout = attention.call.arguments.attn_mask, attention.layout
    if mask is None:
        return attention.query.new_ones(attention.batch, attention.heads, 2, dtype=torch.float32)
    allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
    alive = allowed.any(-1).expand(attention.batch, attention.heads, layout.queries) & (attention.lse < LEFT_OUT)
    return torch.stack([_mean(alive[:, :, rows].float()) for rows in _streams(layout)], -1)


def _extra_mass(attention: JointAttention) -> Float[Tensor, "batch heads 2"]:
    """The mean mass that image and text queries give to the layout's extra tokens."""
    extra = MassSum(attention)
    for cols in attention.layout.extra_keys:
        for block in attention.blocks(slice(0, attention.layout.queries), cols):
            extra.add(block)
    return extra.mass


def _mean_mass(block: Block, layout: TokenLayout) -> Float[Tensor, "batch heads 2"]:
    """The queries' mass on the block's keys, mean over the image and over the text queries (0 if there are none)."""
    return torch.stack([_mean(block.probs[:, :, rows].sum(-1)) for rows in _streams(layout)], -1)


def _streams(layout: TokenLayout) -> tuple[slice, slice]:
    return layout.image_queries, layout.text_queries


def _mean(values: Tensor) -> Tensor:
    """Mean over the last axis, 0 if it is empty."""
    return values.sum(-1) / max(1, values.shape[-1])
