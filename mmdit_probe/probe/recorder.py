"""Recorder: runs the readouts on attention calls and stores their fields."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..readouts.base import Readout, read
from ..readouts.fields import Fields
from ..utils.memory import check_room, empty_cuda_cache
from .calls import TransformerCall, with_values
from .finite import FiniteWatch


class Recorder:
    """Stores what the readouts make of some layers at some steps (None: all).

    `ValueError` if attention is not finite, or if what would be stored exceeds the free memory.
    """

    def __init__(self, readouts: Sequence[Readout], layers: Sequence[int], steps: Collection[int] | None) -> None:
        self.readouts, self.layers, self.steps = readouts, layers, steps
        self._finite = FiniteWatch()
        self._fits = False

    def record(self, call: TransformerCall, attention: JointAttention) -> JointAttention:
        """Store the fields of an attention call in ``call``; returns the attention, in smaller chunks if memory ran out."""
        if not self.readouts or attention.layer not in self.layers:
            return attention
        self._finite.note(attention)
        if self.steps is not None and attention.step not in self.steps:
            return attention
        self._finite.check()
        if not self._fits:
            self._check_memory(attention, call.batch)
            self._fits = True
        fields, attention = self._read(attention)
        call.add(attention, {name: with_values(f, f.values.float().cpu()) for name, f in fields.items()})
        return attention

    def _read(self, attention: JointAttention) -> tuple[Fields, JointAttention]:
        """The readouts' fields, in smaller chunks if GPU memory runs out, and the attention as it was read."""
        while True:
            try:
                return read(self.readouts, attention), attention
            except torch.OutOfMemoryError:
                smaller = attention.in_smaller_chunks()
                if smaller is None:
                    raise
                attention = smaller
                empty_cuda_cache()

    def stored_bytes(self, layout: TokenLayout, heads: int, batch: int) -> int:
        """Size of the record if every layer has this layout and these heads; of one call if ``steps`` is None."""
        numbers = sum(readout.stored_numbers(layout, heads) for readout in self.readouts)
        return 4 * numbers * batch * len(self.layers) * (1 if self.steps is None else len(self.steps))

    def _check_memory(self, attention: JointAttention, batch: int) -> None:
        stored = self.stored_bytes(attention.layout, attention.heads, batch)
        if not stored:  # the readouts store nothing, or do not say how much
            return
        calls = "one step" if self.steps is None else f"{len(self.steps)} step{'s' * (len(self.steps) > 1)}"
        what = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}, {calls}, batch {batch}"
        check_room(what, stored, 2 * stored, "record fewer layers or steps, the mean over heads, or a smaller batch")
