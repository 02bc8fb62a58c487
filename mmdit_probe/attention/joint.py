"""JointAttention: the exact maths of one attention call, without its N x N matrix.

With each query's log-sum-exp ``lse``, any block of the attention matrix is ``exp(q k^T * scale - lse)``: exact, and
computed for only the queries and keys asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .blocks import Block, stream_blocks
from .kernels import AttentionCall
from .layout import TokenLayout
from .scores import chunked_lse, lse_method, mask_block, needs_grad, row_chunk, row_lse, scores, seen_keys
from .surroundings import UNKNOWN, Surroundings
from .text_tokens import TextTokens


@dataclass(frozen=True, eq=False)
class JointAttention:
    """One attention call of one layer.

    Attributes:
        call: query, key and value as the kernel sees them, after norms and rotary embeddings. Key and value may have
            fewer heads than the query (grouped heads).
        layout: which queries and keys are image and which are text.
        layer: the block's number, from 0.
        step: the sampling step, from 0.
        text: what the text positions hold; None if unknown.
        conditional: (batch,) whether each batch row carries the prompt; None if unknown. As in ``text`` if that is known.
        around: what stands around the call in its block, for the readouts that need it.
        halvings: how often the chunk sizes have been halved because memory ran out.

    `reductions.region_mass`, `i2t_maps` and `t2i_maps` summarize a call; readouts do so for every call of a model.

    >>> import torch
    >>> from mmdit_probe import JointAttention, TokenLayout
    >>> from mmdit_probe.attention import AttentionCall, region_mass
    >>> layout = TokenLayout(grid=(4, 6), text=7)
    >>> query, key, value = torch.randn(3, 1, 2, layout.tokens, 8)  # batch 1, 2 heads of width 8
    >>> attention = JointAttention(AttentionCall(query, key, value), layout)
    >>> attention.probs(layout.image_queries, layout.text_keys).shape  # I2T: image queries on text keys
    torch.Size([1, 2, 24, 7])
    >>> i2i, i2t, t2i, t2t = region_mass(attention).unbind(-1)
    >>> torch.allclose(i2i + i2t, torch.ones(1, 2))
    True
    """

    call: AttentionCall
    layout: TokenLayout
    layer: int = 0
    step: int = 0
    text: TextTokens | None = None
    halvings: int = 0
    conditional: np.ndarray | None = None
    around: Surroundings = UNKNOWN

    def __post_init__(self) -> None:
        if self.conditional is None and self.text is not None:
            object.__setattr__(self, "conditional", self.text.conditional.astype(bool))
        queries, keys, layout = self.query.shape[-2], self.key.shape[-2], self.layout
        if (queries, keys) != (layout.queries, layout.keys):
            references = f"{layout.reference} reference + " if layout.reference else ""
            raise ValueError(
                f"JointAttention: the layout has {layout.tokens} tokens ({layout.image} image + {layout.text} text + "
                f"{references}{layout.extra} others), the call {queries} queries and {keys} keys; "
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
    def full_key(self) -> Float[Tensor, "batch heads keys width"]:
        """The keys with as many heads as the queries."""
        return self.call.full_key

    @property
    def scale(self) -> float:
        """Factor of the scores before the softmax: ``1 / sqrt(width)`` unless the model sets another."""
        return self.call.scale

    @property
    def batch(self) -> int:
        return self.call.batch

    @property
    def heads(self) -> int:
        return self.call.heads

    @property
    def output(self) -> Float[Tensor, "batch heads queries value_width"]:
        """What the plain call returns, from the same kernel."""
        return self.call.attended.output

    @cached_property
    def lse(self) -> Float[Tensor, "batch heads queries"]:
        """Log-sum-exp of each query's scores, fp32, without gradient."""
        return row_lse(self.call, self.row_chunk)

    @property
    def seen_keys(self) -> Bool[Tensor, "batch keys"]:
        """True at the keys that some query may attend to: neither masked for all nor left out by the call."""
        return seen_keys(self.call)

    @property
    def method(self) -> str:
        """The kernel that ran; ``+chunked`` if the log-sum-exp was computed apart; the chunk size if memory ran out."""
        smaller = f" (out of memory: chunks of {self.row_chunk} rows)" if self.halvings else ""
        return lse_method(self.call) + smaller

    @property
    def row_chunk(self) -> int:
        """Queries at a time where explicit scores are computed."""
        return row_chunk(self.halvings)

    def in_smaller_chunks(self) -> JointAttention | None:
        """The same call in chunks of half the size; None if they are single queries already."""
        return None if self.row_chunk == 1 else replace(self, halvings=self.halvings + 1)

    def changed(
        self,
        *,
        query: Tensor | None = None,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> JointAttention:
        """The same call with other inputs; what is None stays.

        ``key`` and ``value`` may have as many heads as the query. ``mask`` (batch or 1, heads or 1, queries, keys), True or
        finite where a query may attend to a key, takes the place of the call's own.
        """
        return replace(self, call=self.call.changed(query, key, value, mask))

    def added_to_scores(self, bias: Float[Tensor, "*shared queries keys"]) -> JointAttention:
        """The same call with ``bias`` added to its scores; -inf forbids. The call's own mask stays in force."""
        every_query, every_key = slice(0, self.layout.queries), slice(0, self.layout.keys)
        mask = mask_block(self.call, every_query, every_key)
        return self.changed(mask=bias if mask is None else bias + mask)

    def batch_row(self, index: int) -> JointAttention:
        """The attention of one batch row alone, from what has been computed for the whole batch."""
        if self.batch == 1:
            return self
        own = slice(index, index + 1)
        text = None if self.text is None else self.text.rows(own)
        conditional = None if self.conditional is None else self.conditional[own]
        call, around = self.call.part(own, self.lse), self.around.rows(own)
        return replace(self, call=call, text=text, conditional=conditional, around=around)

    def scores(self, rows: slice, cols: slice) -> Float[Tensor, "batch heads rows cols"]:
        """Scores of some queries on some keys before the softmax, in fp32, mask included; carries gradients."""
        return scores(self.call, rows, cols)

    def probs(self, rows: slice, cols: slice) -> Float[Tensor, "batch heads rows cols"]:
        """Probabilities in [0, 1] with which some queries attend to some keys, exact; carries gradients in grad mode."""
        lse = chunked_lse(self.call, self.row_chunk) if needs_grad(self.call) else self.lse
        return (self.scores(rows, cols) - lse[:, :, rows, None]).exp()

    def blocks(self, rows: slice, cols: slice) -> Iterator[Block]:
        """`probs` in blocks of batch rows and heads, without gradient; see `Block` on how long they last."""
        return stream_blocks(self.call, self.lse, rows, cols, self.halvings)

    def key_rows(self, queries: Int[Tensor, " queries"]) -> Iterator[tuple[Int[Tensor, " rows"], Block]]:
        """Some queries, given by their positions, on all keys: a few at a time, each with its blocks."""
        for rows in queries.split(self.row_chunk):
            for block in stream_blocks(self.call, self.lse, rows, slice(0, self.layout.keys), self.halvings):
                yield rows, block

    def text_columns(self) -> Iterator[Block]:
        """All queries on the text keys: I2T and T2T."""
        return self.blocks(slice(0, self.layout.queries), self.layout.text_keys)

    def text_rows(self) -> Iterator[Block]:
        """The text queries on the image keys: T2I."""
        return self.blocks(self.layout.text_queries, self.layout.image_keys)
