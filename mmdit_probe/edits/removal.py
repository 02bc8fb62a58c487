"""Keys taken out of the softmax of a block's queries, as if their scores had been minus infinity."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..attention.edges import EdgeLayout
from ..attention.kernels import exact
from ..attention.layout import TokenLayout
from ..attention.scores import mask_block
from .attention_block import AttentionBlock, values_at

THIN = 0.2
"""Queries that keep less than this are computed from the keys that are left: what is left of 1 - p would be rounding."""

_NOTHING = 1e-6
"""Queries that keep no more than this, where that can't be done, keep nothing."""


def without_keys(block: AttentionBlock, removed: Bool[Tensor, "batch heads keys"]) -> AttentionBlock:
    """``o' = (o - sum_S p v) / (1 - sum_S p)`` for the queries that ``block.image_probs`` are of; 0 where nothing is left."""
    places = removed.flatten(0, 1).any(0).nonzero().flatten()  # removed for some batch row or head
    sums = block.image_total
    probs = probs_at(block, None, places) / sums * removed[..., places][:, :, None]
    values = values_at(block.attention, slice(0, block.layout.keys))[block.batch, block.heads]
    left = 1 - probs.sum(-1, keepdim=True)
    given = block.image_output / sums - probs @ values[:, :, places]
    if block.others_by_scores:
        left, given = computed_anew(block, left < THIN, ~removed, left, given)
    alive = left > (0 if block.others_by_scores else _NOTHING)
    text = block.image_probs * torch.where(alive, 1 / left, 0) * ~removed[:, :, None, block.layout.text_keys]
    total, gain = (sums * alive)[..., 0], torch.where(alive, left, 1).log()[..., 0]
    return noted(block, removed).with_image_probs(text, sums * (given / left).where(alive, 0), total, gain)


def noted(block: AttentionBlock, removed: Bool[Tensor, "batch heads keys"]) -> AttentionBlock:
    """The block with keys noted as removed, if its queries are the image's."""
    if not of_image(block.layout):
        return block
    own, layout = block.own.clone(), whole(block.layout)
    if layout.scope != "cross":
        own[:, :, layout.image_queries] *= ~removed[:, :, layout.image_keys]
    return replace(block, removed=block.removed | removed, own=own)


def computed_anew(
    block: AttentionBlock,
    thin: Bool[Tensor, "batch heads image 1"],
    seen: Bool[Tensor, "batch heads keys"],
    left: Float[Tensor, "batch heads image 1"],
    given: Float[Tensor, "batch heads image width"],
) -> tuple[Tensor, Tensor]:
    """The share that the keys in ``seen`` have of a query's attention, and what they give, anew by their scores where ``thin``."""
    keys = seen.flatten(0, 1).any(0).nonzero().flatten()
    values = values_at(block.attention, slice(0, block.layout.keys))[block.batch, block.heads][:, :, keys]
    left, given = left.clone(), given.clone()
    for rows in thin[..., 0].flatten(0, 1).any(0).nonzero().flatten().split(block.attention.row_chunk):
        probs = probs_at(block, rows, keys) / block.image_total[:, :, rows] * seen[..., keys][:, :, None]
        where = thin[:, :, rows]
        left[:, :, rows] = torch.where(where, probs.sum(-1, keepdim=True), left[:, :, rows])
        given[:, :, rows] = torch.where(where, probs @ values, given[:, :, rows])
    return left, given


def probs_at(block: AttentionBlock, rows: Tensor | None, places: Tensor) -> Float[Tensor, "batch heads rows places"]:
    """The probabilities so far of some of the queries that ``block.image_probs`` are of, None for all, on some keys.

    On text keys as earlier edits left them; on others by their scores.
    """
    text, queries = block.layout.text_keys, block.layout.image_queries
    is_text = (places >= text.start) & (places < text.stop)
    known = block.image_probs if rows is None else block.image_probs[:, :, rows]
    if bool(is_text.all()):
        return known[..., places - text.start]
    rows = torch.arange(block.layout.image, device=places.device) if rows is None else rows
    probs = _by_scores(block, rows, places)
    if of_image(block.layout):
        probs = probs.masked_fill(block.removed[:, :, None, places], 0)
        if block.layout.scope != "cross":
            is_own = places == rows[:, None] + whole(block.layout).image_keys.start
            probs = probs + is_own * block.own[:, :, queries, None][:, :, rows]
    probs[..., is_text] = known[..., places[is_text] - text.start]
    return probs


def _by_scores(block: AttentionBlock, rows: Tensor, places: Tensor) -> Tensor:
    call, queries, part = block.attention.call, block.layout.image_queries, (block.batch, block.heads)
    query = exact(call.query[block.batch, block.heads, queries][:, :, rows])
    key = exact(call.full_key[part][:, :, places])
    scores = query @ (key * call.scale).transpose(-1, -2)
    mask = mask_block(call, queries, slice(0, block.layout.keys))
    if mask is not None:
        scores = scores + mask[part][:, :, rows][..., places]
    lse, scale = (each[:, :, queries, None][:, :, rows] for each in (block.lse, block.scale))
    return (scores - lse).exp() * scale


def whole(layout: TokenLayout) -> TokenLayout:
    """The layout of the call that an edge is of; any other layout itself."""
    return layout.whole if isinstance(layout, EdgeLayout) else layout


def of_image(layout: TokenLayout) -> bool:
    """Whether the queries that count as the image's are the image's."""
    return layout.image_queries == whole(layout).image_queries
