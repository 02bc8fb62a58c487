"""Scores on text keys changed before the softmax, from the text columns alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .attention_block import AttentionBlock
from .removal import THIN, computed_anew


def reweighted(block: AttentionBlock, gain: Float[Tensor, "batch heads image text"]) -> AttentionBlock:
    """The block with ``gain`` added to the image queries' scores on text keys; every row keeps its sum, 1.

    With p a query's probabilities, r = 1 - sum p what all other keys have, and Z = r + sum p e^gain, p becomes p e^gain / Z and
    the output (o - sum p v + sum p e^gain v) / Z. Where Z is small, as where text holds nearly all and loses it, what the other
    keys have is no difference but computed anew by their scores. A row whose gains are all 0 stays as it is, bit for bit.
    """
    sums, still = block.image_total, (gain == 0).all(-1, keepdim=True)
    shares = block.image_probs / sums
    left = 1 - shares.sum(-1, keepdim=True)
    given = block.image_output / sums - shares @ block.values
    if block.others_by_scores:
        other = torch.ones_like(block.removed)
        other[:, :, block.layout.text_keys] = False
        thin = left + (shares * gain.exp()).sum(-1, keepdim=True) < THIN
        left, given = computed_anew(block, thin & ~still, other, left, given)
    left, given = left.clamp(min=0), torch.where(left > 0, given, 0)
    tiny = torch.finfo(shares.dtype).tiny
    scores = (shares.clamp(min=tiny).log() + gain).masked_fill(shares <= 0, -torch.inf)
    top = torch.cat([scores, left.clamp(min=tiny).log()], -1).amax(-1, keepdim=True)  # keeps every weight at most 1
    weights, rest = (scores - top).exp(), (-top).exp()
    total = weights.sum(-1, keepdim=True) + rest * left
    output = torch.where(still, block.image_output, sums * (rest * given + weights @ block.values) / total)
    probs = torch.where(still, block.image_probs, sums * weights / total)
    gained = torch.where(still, 0, top + total.log())[..., 0]
    return block.with_image_probs(probs, output, block.total[:, :, block.layout.image_queries], gained)
