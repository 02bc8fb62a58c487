"""HeadGroupMaps: I2T maps of groups of heads, for when the maps of every head would be too many to keep."""

from __future__ import annotations

import numpy as np
import torch

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .base import OverTextColumns, Readout, Reduction
from .fields import Fields, token_maps


class HeadGroupMaps(Readout):
    """``i2t_group`` (batch, head_group, row, col, token): I2T probabilities in [0, 1], mean over each group's heads.

    Heads are split into ``groups`` runs of neighbors, as even as possible; each head is its own group if there are no
    more than ``groups``. The mean over groups weighted by `group_sizes` is the mean over heads of `I2TMaps`.

    >>> from mmdit_probe import HeadGroupMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [HeadGroupMaps(groups=2)], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> probe.dataset("conditional")["i2t_group"].sizes["head_group"]
    2
    """

    def __init__(self, groups: int = 8) -> None:
        if groups < 1:
            raise ValueError(f"HeadGroupMaps: groups must be at least 1, got {groups}")
        self.groups = groups

    def reduction(self, attention: JointAttention) -> Reduction:
        total = _GroupSum(attention, self.groups)

        def result() -> Fields:
            name = "probability with which the image query attends to the text token, mean over the group's heads"
            return {"i2t_group": token_maps(total.maps, attention.layout, ("batch", "head_group"), name)}

        return OverTextColumns(total.add, result)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text * min(self.groups, heads)


class _GroupSum:
    """``maps`` (batch, group, image, text) from the text columns."""

    def __init__(self, attention: JointAttention, groups: int) -> None:
        self.layout = attention.layout
        self.sizes = group_sizes(attention.heads, groups)
        self.group = np.repeat(np.arange(len(self.sizes)), self.sizes)
        shape = (attention.batch, len(self.sizes), self.layout.image, self.layout.text)
        self.maps = attention.query.new_zeros(*shape, dtype=torch.float32)

    def add(self, block: Block) -> None:
        """Add a block of the text columns."""
        for head, group in enumerate(self.group[block.heads]):
            probs = block.probs[:, head, self.layout.image_queries]
            self.maps[block.batch, group].add_(probs, alpha=1 / self.sizes[group])


def group_sizes(heads: int, groups: int) -> list[int]:
    """Number of heads in each group: 10 heads in 4 groups are 3, 3, 2 and 2."""
    return [len(part) for part in np.array_split(np.arange(heads), min(groups, heads))]


def group_labels(sizes: list[int]) -> list[str]:
    """Each group's heads as text: "0-2", "3-5", or "3" for a single head."""
    stops = np.cumsum(sizes)
    return [f"{stop - size}-{stop - 1}" if size > 1 else str(stop - 1) for size, stop in zip(sizes, stops, strict=True)]
