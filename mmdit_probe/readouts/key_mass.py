"""KeyMass: how much of the image's attention each single key takes, which shows attention sinks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import Extra, TokenLayout
from ..attention.reductions import Heads
from .base import OverImageRows, Readout, Reduction
from .fields import Axis, Field, Fields, check_heads, leading_dims


class KeyMass(Readout):
    """Mean over the image queries of the probability that each single key gets, of ALL keys of the joint softmax.

    - ``image_key_mass`` (batch, [head,] row, col): mass on each image position; NaN in plain cross-attention.
    - ``text_key_mass`` (batch, [head,] token): mass on each text token.
    - ``extra_key_mass`` (batch, [head,] extra): mass on each token that is neither, such as registers and the
      places of reference images; only where there are any.

    In [0, 1]; together they sum to 1. A key that gets 1 / keys is attended to as under uniform attention; attention
    sinks get many times that. With ``every`` above 1 each has a ``..._error``, the standard error of the mean over the
    queries sampled (with the correction for a finite grid), over queries alone and not over images.

    Which key is which is told by the layout, never by position 0: what a model calls its first key is the corner of the
    image where the image comes first, and the start token where the text does.

    Args:
        heads: "mean" (average over heads) or "all" (each head's own).
        every: read every so many-th image query, along diagonals of the grid; 1 reads all of them.

    >>> from mmdit_probe import KeyMass, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [KeyMass()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> record = probe.dataset("conditional").squeeze()
    >>> round(float(record["image_key_mass"].sum() + record["text_key_mass"].sum()), 4)
    1.0
    """

    def __init__(self, heads: Heads = "mean", every: int = 1) -> None:
        check_heads("KeyMass", heads)
        if every < 1:
            raise ValueError(f"KeyMass: every must be at least 1, got {every}")
        self.heads, self.every = heads, every

    def reduction(self, attention: JointAttention) -> Reduction:
        queries = sampled_queries(attention.layout, self.every)
        total = _KeySum(attention, len(queries), self.heads)
        return OverImageRows(queries, total.add, lambda: self._fields(total, attention.layout))

    def _fields(self, total: _KeySum, layout: TokenLayout) -> Fields:
        fields = self._split(total.mass(), layout, "", "mean probability that the image queries give to the key")
        if self.every > 1:
            name = "standard error of that mean, over the image queries that were read"
            fields |= self._split(total.error(layout.image), layout, "_error", name)
        return fields

    def _split(self, values: Tensor, layout: TokenLayout, suffix: str, name: str) -> Fields:
        """Numbers of all keys (batch, [heads,] keys) as the fields of image, text and other keys."""
        leading = leading_dims(self.heads)
        over = "" if self.heads == "all" else ", mean over heads"
        image = values[..., layout.image_keys]
        if image.shape[-1] == 0:
            image = values.new_full((*values.shape[:-1], layout.image), torch.nan)
        grid = image.unflatten(-1, layout.grid)
        fields = {
            f"image_key_mass{suffix}": Field((*leading, *layout.grid_dims), grid, f"{name}, an image position{over}"),
            f"text_key_mass{suffix}": Field(
                (*leading, "token"), values[..., layout.text_keys], f"{name}, a text token{over}"
            ),
        }
        labels = extra_labels(layout)
        if labels:
            others = torch.cat([values[..., keys] for keys in (*layout.extra_keys, *layout.reference_keys)], -1)
            axis = Axis("extra", labels, "tokens that are neither image nor text, such as registers and references")
            long_name = f"{name}, neither image nor text{over}"
            fields[f"extra_key_mass{suffix}"] = Field((*leading, "extra"), others, long_name, axes=(axis,))
        return fields

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        keys = layout.image + layout.text + len(extra_labels(layout))
        return keys * (1 if self.heads == "mean" else heads) * (1 if self.every == 1 else 2)


def sampled_queries(layout: TokenLayout, every: int) -> Tensor:
    """Positions in the flattened grid of every so many-th image query, shifted by one from row to row and frame to frame.

    So that a grid whose width is a multiple of ``every`` is not read in the same columns alone.
    """
    places = torch.cartesian_prod(*(torch.arange(size) for size in layout.grid)).sum(-1)
    return torch.nonzero(places % every == 0).flatten()


def extra_labels(layout: TokenLayout) -> tuple[str, ...]:
    """A name for each key that is neither image nor text: register 1, register 2, then reference 1 place 1.

    In the order of ``layout.extra_keys`` and, after them, ``layout.reference_keys``.
    """
    ordered: list[Extra] = [
        extra
        for place in ("first", "between", "last")
        for extra in layout.extras
        if extra.place == place and not extra.is_reference
    ]
    others = [f"{extra.name} {number + 1}" for extra in ordered for number in range(extra.tokens)]
    places = [
        f"reference {number} place {place + 1}"
        for number, reference in enumerate(layout.references, 1)
        for place in range(reference.tokens)
    ]
    return (*(others if layout.extra_keys else ()), *(places if layout.reference_keys else ()))


class _KeySum:
    """Sums over queries of each key's probability and of its square: (batch, [heads,] keys) in fp32."""

    def __init__(self, attention: JointAttention, queries: int, heads: Heads) -> None:
        self.heads, self.all_heads, self.queries = heads, attention.heads, queries
        leading = (attention.batch,) if heads == "mean" else (attention.batch, attention.heads)
        self.sum = attention.query.new_zeros(*leading, attention.layout.keys, dtype=torch.float32)
        self.squares = torch.zeros_like(self.sum)
        self.rows: Tensor | None = None

    def add(self, numbers: Tensor, block: Block) -> None:
        """Add a block of image queries' rows."""
        if self.heads == "all":
            self.sum[block.batch, block.heads] += block.probs.sum(2)
            self.squares[block.batch, block.heads] += block.probs.square().sum(2)
            return
        own = block.probs.sum(1)
        self.rows = own if block.heads.start == 0 or self.rows is None else self.rows + own
        if block.heads.stop == self.all_heads:  # the mean over heads of these queries' rows is complete
            mean = self.rows / self.all_heads
            self.sum[block.batch] += mean.sum(1)
            self.squares[block.batch] += mean.square().sum(1)

    def mass(self) -> Tensor:
        """Mean over the queries."""
        return self.sum / self.queries

    def error(self, image: int) -> Tensor:
        """Standard error of `mass` as an estimate of the mean over ``image`` queries; NaN of a single query."""
        if self.queries < 2:
            return torch.full_like(self.sum, torch.nan)
        spread = (self.squares - self.sum.square() / self.queries).clamp(min=0) / (self.queries - 1)
        return (spread / self.queries * (1 - self.queries / image)).sqrt()
