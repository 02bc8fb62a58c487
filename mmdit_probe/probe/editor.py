"""Editor: applies edits to the outputs of attention calls."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.reordered import PresentedCall
from ..edits import Edit


class Editor:
    """Applies edits in order, each to the layers that it names."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits
        self.layers = {layer for edit in edits for layer in edit.layers}

    def needs_branches(self, layer: int) -> bool:
        """Whether an edit of the layer has to know which batch rows carry the prompt."""
        return any(layer in edit.layers and edit.batch == "conditional" for edit in self.edits)

    def edited(self, attention: JointAttention, output: Tensor | None) -> Tensor | None:
        """The output of a call after all edits; ``output`` is the one so far, None if it is still the call's own."""
        for edit in self.edits:
            if attention.layer in edit.layers:
                output = _apply(edit, attention, output)
        return output


def _apply(edit: Edit, attention: JointAttention, output: Tensor | None) -> Tensor:
    """One edit, in the layout's order of tokens; the output stays in the call's own."""
    call = attention.call
    if not isinstance(call, PresentedCall):
        return edit.apply(attention, call.attended.output if output is None else output)
    before = call.attended.output if output is None else call.presented(output)
    return call.restored(edit.apply(attention, before))
