"""The attention budget's numbers: the mass of each region."""

from __future__ import annotations

import torch

from ..attention.joint import REGIONS, Block, JointAttention, mean_mass
from ..attention.layout import TokenLayout
from .base import Field, Fields, Readout, Reduction


class RegionMass(Readout):
    """``region_mass`` (batch, head, region): mean mass over each region's queries, in [0, 1] (Seg4Diff, Fig. 2)."""

    def reduction(self, attention: JointAttention) -> Reduction:
        return _MassReduction(attention)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * len(REGIONS)


class _MassReduction:
    def __init__(self, attention: JointAttention) -> None:
        self.attention = attention
        self.mass = attention.query.new_zeros(attention.batch, attention.heads, 2, dtype=torch.float32)

    def text_columns(self, block: Block) -> None:
        self.mass[block.batch, block.heads] = mean_mass(block, self.attention.layout)

    def result(self) -> Fields:
        return {"region_mass": Field(("batch", "head", "region"), self.attention.four_regions(self.mass))}
