"""HeadScale: what some heads give, times a factor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ..attention.layout import TokenLayout
from .attention_block import AttentionBlock
from .base import Edit


class HeadScale(Edit):
    """Multiply what some heads give to all queries by ``factor``: 0 removes them, 1 changes nothing, -2 is HRV's weakening.

    HRV (arXiv 2412.02237) weakens heads in the order of their relevance for a concept.
    """

    takes_edge = False

    def __init__(
        self, layer: int | Collection[int] | None, heads: int | Collection[int] | None, factor: float, **where: Any
    ) -> None:
        super().__init__(layer, heads=[heads] if isinstance(heads, int) else heads, **where)
        if not abs(factor) < float("inf"):
            raise ValueError(f"HeadScale: factor must be a finite number, got {factor}")
        if self.words or self.kinds:
            raise ValueError("HeadScale: a head's whole output is scaled, not that of words or kinds; leave them out")
        self.factor = factor

    @property
    def is_identity(self) -> bool:
        return self.factor == 1

    def change(self, block: AttentionBlock) -> AttentionBlock:
        names = ("probs", "total", "scale", "own", "output")
        return replace(block, **{name: self.factor * getattr(block, name) for name in names})

    def changes(self, layout: TokenLayout) -> tuple[tuple[slice, slice], ...]:
        return ()
