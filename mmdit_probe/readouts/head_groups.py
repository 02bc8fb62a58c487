"""HeadGroupMaps: I2T maps of groups of heads, where every single head's would be too much to keep."""

from __future__ import annotations

import numpy as np
import torch

from ..attention.joint import Block, JointAttention
from ..attention.layout import TokenLayout
from .base import Field, Fields, Readout, Reduction


class HeadGroupMaps(Readout):
    """``i2t_group`` (batch, head_group, row, col, token): I2T probabilities, mean over each group's heads, in [0, 1].

    Heads are split into ``groups`` runs of neighbors, as even as can be; into single heads where there are no more.
    The mean over groups weighted by `group_sizes` is `I2TMaps`' mean over heads (Seg4Diff, section 4.1).
    """

    def __init__(self, groups: int = 8) -> None:
        if groups < 1:
            raise ValueError(f"HeadGroupMaps: groups must be at least 1, got {groups}")
        self.groups = groups

    def reduction(self, attention: JointAttention) -> Reduction:
        return _GroupReduction(attention, self.groups)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text * min(self.groups, heads)


class _GroupReduction:
    def __init__(self, attention: JointAttention, groups: int) -> None:
        self.layout = attention.layout
        sizes = group_sizes(attention.heads, groups)
        self.group = np.repeat(np.arange(len(sizes)), sizes)
        self.sizes = sizes
        shape = (attention.batch, len(sizes), self.layout.image, self.layout.text)
        self.maps = attention.query.new_zeros(*shape, dtype=torch.float32)

    def text_columns(self, block: Block) -> None:
        for head, group in enumerate(self.group[block.heads]):
            probs = block.probs[:, head, self.layout.image_queries]
            self.maps[block.batch, group].add_(probs, alpha=1 / self.sizes[group])

    def result(self) -> Fields:
        dims = ("batch", "head_group", *self.layout.grid_dims, "token")
        return {"i2t_group": Field(dims, self.maps.unflatten(-2, self.layout.grid))}


def group_sizes(heads: int, groups: int) -> list[int]:
    """How many heads each group has: 10 heads in 4 groups are 3, 3, 2, 2."""
    return [len(part) for part in np.array_split(np.arange(heads), min(groups, heads))]


def group_labels(sizes: list[int]) -> list[str]:
    """The heads of each group in words: "0-2", "3-5", or "3" for a single one."""
    stops = np.cumsum(sizes)
    return [f"{stop - size}-{stop - 1}" if size > 1 else str(stop - 1) for size, stop in zip(sizes, stops, strict=True)]
