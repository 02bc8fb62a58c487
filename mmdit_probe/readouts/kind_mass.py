"""KindMass: how much attention words, start, end, padding, template and absent positions take."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields
from .head_stats import KIND, KINDS, is_kind

QUERIES = Axis("queries", ("image", "text"), "tokens that attend")


class KindMass(Readout):
    """The text's share of attention by kinds of text tokens: start, word, end, padding, template and absent.

    - ``kind_mass`` (batch, head, queries, kind): mean over image or text queries of the probability mass that they give to
      all tokens of the kind, in [0, 1]. The kinds add up to the I2T or T2T mass. NaN where the kinds are unknown, or where text
      does not attend.
    - ``kind_tokens`` (batch, kind): how many tokens are of the kind.

    >>> from mmdit_probe import KindMass, Probe, RegionMass, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [KindMass(), RegionMass()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> record = probe.dataset("conditional").squeeze()
    >>> text, whole = record["kind_mass"].sel(queries="image").sum("kind"), record["region_mass"].sel(region="I2T")
    >>> bool((abs(text - whole) < 1e-4).all())
    True
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total = _KindSum(attention)
        return OverTextColumns(total.add, total.fields)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return len(KINDS) * (2 * heads + 1)


class _KindSum:
    def __init__(self, attention: JointAttention) -> None:
        self.layout, self.is_kind = attention.layout, is_kind(attention)
        shape = (attention.batch, attention.heads, 2, len(KINDS))
        self.mass = attention.query.new_full(shape, torch.nan, dtype=torch.float32)
        self.tokens = attention.query.new_full((attention.batch, len(KINDS)), torch.nan, dtype=torch.float32)
        if self.is_kind is not None:
            self.tokens = self.is_kind.sum(1)

    def add(self, block: Block) -> None:
        """Add a block of the text columns."""
        if self.is_kind is None:
            return
        for number, queries in enumerate((self.layout.image_queries, self.layout.text_queries)):
            rows: Tensor = block.probs[:, :, queries]
            if rows.shape[2]:
                self.mass[block.batch, block.heads, number] = (rows.mean(2) @ self.is_kind[block.batch]).float()

    def fields(self) -> Fields:
        mass = "mean probability mass that the queries give to all text tokens of the kind"
        return {
            "kind_mass": Field(("batch", "head", "queries", "kind"), self.mass, mass, axes=(QUERIES, KIND)),
            "kind_tokens": Field(("batch", "kind"), self.tokens, "number of text tokens of the kind", axes=(KIND,)),
        }
