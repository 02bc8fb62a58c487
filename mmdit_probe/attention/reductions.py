"""What a call's blocks add up to: region masses, and I2T and T2I maps.

The sums take one block at a time, so that several of them can share the blocks of one call, as readouts do. The
functions run through the blocks for one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..configs.single_image import Heads
from .blocks import Block
from .joint import JointAttention
from .layout import Region, TokenLayout, TokenStream
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
    """Mean mass that each stream's queries give to the keys of the blocks: ``mass`` (batch, heads, asking), in [0, 1].

    Asking are the image, the text, and each reference image if there are any.
    """

    def __init__(self, attention: JointAttention) -> None:
        self.attention = attention
        size = attention.batch, attention.heads, len(_asking(attention.layout))
        self.mass = attention.query.new_zeros(*size, dtype=torch.float32)

    def add(self, block: Block) -> None:
        """Add a block of all queries."""
        self.mass[block.batch, block.heads] += _mean_mass(block, self.attention.layout)

    def shares(self) -> Shares:
        """The masses of all keys, from those of the text columns."""
        attention, layout = self.attention, self.attention.layout
        references = [_mass_on(attention, [keys]) for keys in layout.reference_keys]
        others = _mass_on(attention, layout.extra_keys)
        image = _row_sums(attention) - self.mass - sum(references) - others
        return Shares(layout, image, self.mass, torch.stack([*references, others], -1))

    def by_region(self) -> Float[Tensor, "batch heads regions"]:
        """The masses of the layout's listed regions, from those of the text columns; see `region_mass`."""
        return self.shares().by_region()


@dataclass(frozen=True, eq=False)
class Shares:
    """How each stream's queries share out their attention, in [0, 1]; means over the queries.

    Attributes:
        layout: where the tokens are.
        image: (batch, heads, asking) mass on the image keys. Asking are the image, the text, and each reference image.
        text: (batch, heads, asking) mass on the text keys.
        further: (batch, heads, asking, references + 1) mass on each reference image and, last, on all other tokens.
    """

    layout: TokenLayout
    image: Float[Tensor, "batch heads asking"]
    text: Float[Tensor, "batch heads asking"]
    further: Float[Tensor, "batch heads asking further"]

    def by_region(self) -> Float[Tensor, "batch heads regions"]:
        """The masses of the layout's listed regions; NaN for those that the model does not have."""
        answered = {
            TokenStream.IMAGE: self.image,
            TokenStream.TEXT: self.text,
            TokenStream.REFERENCE: self.further[..., :-1].sum(-1),
        }
        masses = [self._of(region.asking, answered[region.answering]) for region in self.layout.listed_regions]
        known = [region in self.layout.regions for region in self.layout.listed_regions]
        return torch.stack(masses, -1).masked_fill(~torch.tensor(known, device=self.image.device), torch.nan)

    def _of(self, asking: TokenStream, mass: Float[Tensor, "batch heads asking"]) -> Float[Tensor, "batch heads"]:
        """The mean over a stream's queries, of all reference images if it is theirs."""
        if asking != TokenStream.REFERENCE:
            return mass[..., list(TokenStream).index(asking)]
        sizes = mass.new_tensor([reference.tokens for reference in self.layout.references])
        return mass[..., 2:] @ (sizes / sizes.sum()) if mass.shape[-1] > 2 else mass[..., 0]


def region_mass(attention: JointAttention) -> Float[Tensor, "batch heads regions"]:
    """Mean over each region's queries of the probability mass that they give it, in [0, 1].

    Regions in the order I2I, I2T, T2I, T2T (Seg4Diff, section 3.2), then I2R, T2R, R2I, R2T, R2R if there are reference
    images; NaN if the model has no such region. I2I, T2I and R2I are what the softmax leaves, 1 - I2T and so on, less what
    references and the layout's other extra tokens take. A query whose mask excludes every key counts as 0.
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


def _row_sums(attention: JointAttention) -> Float[Tensor, "batch heads asking"]:
    """Mean row sum of each stream's queries: 1, less the share of queries that may attend to nothing."""
    mask, layout = attention.call.arguments.attn_mask, attention.layout
    asking = _asking(layout)
    if mask is None:
        return attention.query.new_ones(attention.batch, attention.heads, len(asking), dtype=torch.float32)
    allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
    alive = allowed.any(-1).expand(attention.batch, attention.heads, layout.queries) & (attention.lse < LEFT_OUT)
    return torch.stack([_mean(alive[:, :, rows].float()) for rows in asking], -1)


def _mass_on(attention: JointAttention, keys: Sequence[slice]) -> Float[Tensor, "batch heads asking"]:
    """The mean mass that each stream's queries give to some keys."""
    total = MassSum(attention)
    for cols in keys:
        for block in attention.blocks(slice(0, attention.layout.queries), cols):
            total.add(block)
    return total.mass


def _mean_mass(block: Block, layout: TokenLayout) -> Float[Tensor, "batch heads asking"]:
    """The queries' mass on the block's keys, mean over each stream's queries (0 if there are none)."""
    return torch.stack([_mean(block.probs[:, :, rows].sum(-1)) for rows in _asking(layout)], -1)


def _asking(layout: TokenLayout) -> list[slice]:
    """The queries of the image, of the text, and of each reference image."""
    return [layout.image_queries, layout.text_queries, *layout.reference_queries]


def _mean(values: Tensor) -> Tensor:
    """Mean over the last axis, 0 if it is empty."""
    return values.sum(-1) / max(1, values.shape[-1])
