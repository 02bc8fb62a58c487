"""What stands around an attention call in its block: the output projection, the residual stream, concepts that ride along."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the readouts that ask for it are told of a call's block; all None if nobody asked, or if it is unknown.

    Attributes:
        output_weight: (channels, heads * value width), the weight of the image stream's output projection.
        residual: (batch, image, channels), the image stream as it enters the block.
        concepts: (batch, concept tokens, heads * value width), the attention output of concept tokens, heads side by side.
        concept_names: the concepts.
        concept_spans: each concept's places among the concept tokens.
    """

    output_weight: Tensor | None = None
    residual: Tensor | None = None
    concepts: Tensor | None = None
    concept_names: tuple[str, ...] = ()
    concept_spans: tuple[tuple[int, ...], ...] = ()

    def rows(self, rows: slice) -> Surroundings:
        """Of some batch rows."""
        residual = None if self.residual is None else self.residual[rows]
        return replace(self, residual=residual, concepts=None if self.concepts is None else self.concepts[rows])


UNKNOWN = Surroundings()
"""Of calls whose block nobody asked about."""
