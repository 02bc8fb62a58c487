"""JointAttention: the exact maths of one attention call, without its N x N matrix.

With the row-wise log-sum-exp `lse` any block of the attention matrix is ``exp(q k^T * scale - lse)``,
exact, for just the rows and columns asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .kernels import AttentionCall, additive_mask
from .layout import Region, TokenLayout
from .text_tokens import TextTokens

Heads = Literal["mean", "all"]
BLOCK_ELEMENTS = 1 << 20
"""Size of the one buffer that blocks are computed in (4 MB of fp32), unless one head needs more."""
ROW_CHUNK = 256
"""Rows at a time where a log-sum-exp has to be computed by explicit softmax."""

LEFT_OUT = torch.finfo(torch.float32).max
"""Log-sum-exp of a query that the layout has and the call has not: its probabilities are 0."""


class Block(NamedTuple):
    """Probabilities of some batch rows and heads; the buffer is used again for the next block.

    ``probs`` is (batch, heads, rows, cols) in fp32: all queries x text keys for text columns, text
    queries x image keys for text rows.
    """

    batch: slice
    heads: slice
    probs: Float[Tensor, "batch heads rows cols"]


@dataclass(frozen=True, eq=False)
class JointAttention:
    """One call of one layer.

    Query, key and value are as the kernel sees them, after norms and rotary embeddings; ``key`` and
    ``value`` may have fewer heads (grouped heads). ``layer`` counts blocks from 0, ``step`` the
    sampling steps from 0; ``text`` says what the text positions hold, where that is known. ``shrunk`` says how often
    the chunks of its blocks have been halved.
    """

    call: AttentionCall
    layout: TokenLayout
    layer: int = 0
    step: int = 0
    text: TextTokens | None = None
    shrunk: int = 0

    def __post_init__(self) -> None:
        if (self.query.shape[-2], self.key.shape[-2]) != (self.layout.queries, self.layout.keys):
            layout = self.layout
            raise ValueError(
                f"JointAttention: the layout has {layout.tokens} tokens ({layout.image} image + {layout.text} text + "
                f"{layout.extra} others), the call {self.query.shape[-2]} queries and {self.key.shape[-2]} keys; "
                f"give the right TokenLayout to Probe(layout=...)"
            )

    @property
    def query(self) -> Float[Tensor, "batch heads queries width"]:
        return self.call.query

    @property
    def key(self) -> Float[Tensor, "batch kv_heads keys width"]:
        return self.call.key

    @property
    def value(self) -> Float[Tensor, "batch kv_heads keys value_width"]:
        return self.call.value

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax, ``1 / sqrt(width)`` unless the model says otherwise."""
        return self.call.arguments.scale if self.call.arguments.scale is not None else self.query.shape[-1] ** -0.5

    @property
    def batch(self) -> int:
        return self.query.shape[0]

    @property
    def heads(self) -> int:
        return self.query.shape[1]

    @property
    def output(self) -> Float[Tensor, "batch heads queries value_width"]:
        """What the plain call returns, from the same kernel."""
        return self.call.attended.output

    @cached_property
    def lse(self) -> Float[Tensor, "batch heads queries"]:
        """Row-wise log-sum-exp of the scores, fp32, without gradient."""
        lse = self.call.attended.lse
        if lse is None:
            with torch.no_grad():
                lse = self.chunked_lse()
        # a row that may attend to nothing has -inf: its probabilities are 0, not NaN
        return lse.detach().clamp(min=torch.finfo(torch.float32).min)

    @property
    def method(self) -> str:
        """The kernel that ran, ``+chunked`` where its log-sum-exp had to be computed apart, and chunks that were shrunk."""
        apart = "+chunked" if self.call.attended.lse is None else ""
        smaller = f" (out of memory: chunks of {self.row_chunk} rows)" if self.shrunk else ""
        return self.call.attended.kernel + apart + smaller

    @property
    def row_chunk(self) -> int:
        """Rows at a time where explicit scores are computed."""
        return max(1, ROW_CHUNK >> self.shrunk)

    def in_smaller_chunks(self) -> JointAttention | None:
        """The same call with chunks of half the size; None where they are single rows already."""
        return None if self.row_chunk == 1 else replace(self, shrunk=self.shrunk + 1)

    @cached_property
    def full_key(self) -> Float[Tensor, "batch heads keys width"]:
        """The keys with as many heads as the queries."""
        return self.key.repeat_interleave(self.heads // self.key.shape[1], dim=1)

    def scores(self, rows: slice, cols: slice) -> Float[Tensor, "batch heads rows cols"]:
        """Scores before the softmax in fp32, masks included; carries gradients."""
        query, key = self.query[:, :, rows].float(), self.full_key[:, :, cols].float()
        scores = query @ (key * self.scale).transpose(-1, -2)
        mask = self._mask(rows, cols)
        return scores if mask is None else scores + mask

    def _mask(self, rows: slice, cols: slice) -> Tensor | None:
        mask = additive_mask(self.call.arguments.attn_mask, torch.float32)
        if self.call.arguments.is_causal:
            size = self.layout.queries, self.layout.keys
            causal = torch.ones(size, dtype=torch.bool, device=self.query.device).tril()
            mask = additive_mask(causal, torch.float32)
        if mask is None:
            return None
        return mask.expand(self.batch, self.heads, self.layout.queries, self.layout.keys)[:, :, rows, cols]

    def chunked_lse(self) -> Float[Tensor, "batch heads queries"]:
        """The log-sum-exp by explicit scores, `row_chunk` rows at a time; carries gradients in bounded memory."""
        everything = slice(0, self.layout.keys)

        def of_rows(start: int) -> Tensor:
            return self.scores(slice(start, start + self.row_chunk), everything).logsumexp(-1)

        with_grad = torch.is_grad_enabled() and (self.query.requires_grad or self.key.requires_grad)
        starts = range(0, self.layout.queries, self.row_chunk)
        parts = [checkpoint(of_rows, s, use_reentrant=False) if with_grad else of_rows(s) for s in starts]
        return torch.cat(parts, -1)

    def probs(self, rows: slice, cols: slice) -> Float[Tensor, "batch heads rows cols"]:
        """Any block of the attention matrix, exact; carries gradients where grad mode is on."""
        needs_grad = torch.is_grad_enabled() and (self.query.requires_grad or self.key.requires_grad)
        lse = self.chunked_lse() if needs_grad else self.lse
        return (self.scores(rows, cols) - lse[:, :, rows, None]).exp()

    def text_columns(self) -> Iterator[Block]:
        """All queries on the text keys: I2T and T2T."""
        return self._blocks(slice(0, self.layout.queries), self.layout.text_keys)

    def text_rows(self) -> Iterator[Block]:
        """The text queries on the image keys: T2I."""
        return self._blocks(self.layout.text_queries, self.layout.image_keys)

    def _blocks(self, rows: slice, cols: slice) -> Iterator[Block]:
        size = (rows.stop - rows.start) * (cols.stop - cols.start)
        if size == 0:
            return
        query = self.query[:, :, rows].detach()
        key = (self.full_key[:, :, cols].detach().float() * self.scale).transpose(-1, -2).contiguous()
        lse, mask = self.lse[:, :, rows, None], self._mask(rows, cols)
        buffer = query.new_empty(0, dtype=torch.float32)
        for batch, heads in _tiles(self.batch, self.heads, size, BLOCK_ELEMENTS >> self.shrunk):
            shape = (batch.stop - batch.start, heads.stop - heads.start, query.shape[2], key.shape[3])
            probs = buffer.resize_(shape)
            torch.matmul(query[batch, heads].float(), key[batch, heads], out=probs)
            if mask is not None:
                probs += mask[batch, heads]
            probs.sub_(lse[batch, heads]).exp_()
            yield Block(batch, heads, probs)

    def region_mass(self) -> Float[Tensor, "batch heads region"]:
        """Mean over each region's queries of the probability mass they give it, in [0, 1].

        Regions in the order I2I, I2T, T2I, T2T (Seg4Diff, section 3.2); NaN where the model has no such region.
        I2I and T2I are what the softmax leaves, 1 - I2T and 1 - T2T, less what the layout's extras take. A query
        that a mask lets attend to nothing counts as 0.
        """
        mass = self.query.new_zeros(self.batch, self.heads, 2, dtype=torch.float32)
        for block in self.text_columns():
            mass[block.batch, block.heads] = mean_mass(block, self.layout)
        return self.four_regions(mass)

    def four_regions(self, text: Float[Tensor, "batch heads 2"]) -> Float[Tensor, "batch heads 4"]:
        """(I2T, T2T) -> (I2I, I2T, T2I, T2T); NaN where the layout has no such region."""
        i2t, t2t = text.unbind(-1)
        i2i, t2i = (self._whole_mass() - text - self._extra_mass()).unbind(-1)
        regions = torch.stack([i2i, i2t, t2i, t2t], -1)
        for number in [n for n, region in enumerate(REGIONS) if region not in self.layout.regions]:
            regions[..., number] = torch.nan
        return regions

    def _whole_mass(self) -> Tensor | float:
        """The mean row sum of image and text queries: 1, less the rows that may attend to nothing."""
        mask = self.call.arguments.attn_mask
        if mask is None:
            return 1.0
        allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
        alive = allowed.any(-1).expand(self.batch, self.heads, self.layout.queries) & (self.lse < LEFT_OUT)
        return torch.stack([_mean(alive[:, :, rows].float()) for rows in _streams(self.layout)], -1)

    def _extra_mass(self) -> Tensor | float:
        """The mass that image and text queries give to the layout's extras."""
        extra = self.query.new_zeros(self.batch, self.heads, 2, dtype=torch.float32)
        for cols in self.layout.extra_keys:
            for block in self._blocks(slice(0, self.layout.queries), cols):
                extra[block.batch, block.heads] += mean_mass(block, self.layout)
        return extra

    def i2t(self, heads: Heads = "mean") -> Tensor:
        """Probabilities of image queries on text keys: (batch, image, text), or with a heads axis after batch."""
        return self._maps(self.text_columns(), (self.layout.image, self.layout.text), self.layout.image_queries, heads)

    def t2i(self, heads: Heads = "mean") -> Tensor:
        """Probabilities of text queries on image keys: (batch, text, image), or with a heads axis after batch.

        NaN where text does not attend.
        """
        maps = self._maps(self.text_rows(), (self.layout.text, self.layout.image), slice(None), heads)
        return maps if Region.T2I in self.layout.regions else maps.fill_(torch.nan)

    def _maps(self, blocks: Iterator[Block], shape: tuple[int, int], rows: slice, heads: Heads) -> Tensor:
        maps = self.empty_maps(*shape, heads)
        for block in blocks:
            add_to_maps(maps, block, rows, self.heads, heads)
        return maps

    def empty_maps(self, rows: int, cols: int, heads: Heads) -> Tensor:
        """The zeros that `add_to_maps` adds to."""
        leading = (self.batch,) if heads == "mean" else (self.batch, self.heads)
        return self.query.new_zeros(*leading, rows, cols, dtype=torch.float32)


def _tiles(batch: int, heads: int, size: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Batch and head ranges whose blocks of ``size`` elements a head fit a buffer of ``most``."""
    whole_rows = max(1, most // (size * heads)) if size * heads <= most else 1
    some_heads = max(1, min(heads, most // size))
    for row in range(0, batch, whole_rows):
        for head in range(0, heads, some_heads):
            yield slice(row, min(row + whole_rows, batch)), slice(head, min(head + some_heads, heads))


def mean_mass(block: Block, layout: TokenLayout) -> Float[Tensor, "batch heads 2"]:
    """A block's mass by row, mean over the image queries and over the text queries (0 where there are none)."""
    return torch.stack([_mean(block.probs[:, :, rows].sum(-1)) for rows in _streams(layout)], -1)


def _streams(layout: TokenLayout) -> tuple[slice, slice]:
    return layout.image_queries, layout.text_queries


def _mean(rows: Tensor) -> Tensor:
    """Mean over the last axis, 0 if it is empty."""
    return rows.sum(-1) / max(1, rows.shape[-1])


def add_to_maps(maps: Tensor, block: Block, rows: slice, all_heads: int, heads: Heads) -> None:
    """Add a block's rows to head-mean maps, or put them into per-head maps."""
    probs = block.probs[:, :, rows]
    if heads == "all":
        maps[block.batch, block.heads] = probs
    elif probs.shape[1] == 1:
        maps[block.batch].add_(probs[:, 0], alpha=1 / all_heads)
    else:
        maps[block.batch].add_(probs.sum(1), alpha=1 / all_heads)


REGIONS = tuple(Region)
