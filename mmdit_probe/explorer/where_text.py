"""WhereText: another readout where text attends, and nothing where it does not."""

from __future__ import annotations

from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from ..readouts.base import Readout, Reduction
from ..readouts.fields import Fields


class WhereText(Readout):
    """The fields of ``readout`` in models whose text attends; none in plain cross-attention, where it would refuse."""

    def __init__(self, readout: Readout) -> None:
        self.readout = readout

    def reduction(self, attention: JointAttention) -> Reduction:
        return self.readout.reduction(attention) if _attends(attention.layout) else super().reduction(attention)

    def measure(self, attention: JointAttention) -> Fields:
        """Nothing."""
        return {}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return self.readout.stored_numbers(layout, heads) if _attends(layout) else 0


def _attends(layout: TokenLayout) -> bool:
    return Region.T2T in layout.regions
