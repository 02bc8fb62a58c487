"""The maps that MAGNET's mask loss reads: I2T scores or probabilities of one layer, as logits with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..attention.joint import JointAttention
from ..edits import Edit

Read = Literal["scores", "probs"]


class AttentionTap(Edit):
    """Keeps the last attention call of a layer without changing it.

    It is given to a `Probe` as an edit, so that the call's queries and keys carry gradients.
    """

    def __init__(self, layer: int) -> None:
        super().__init__(layer, batch="all")
        self.layer = layer
        self.attention: JointAttention | None = None

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        self.attention = attention
        return output

    def take(self) -> JointAttention:
        """Return the call and forget it; `ValueError` if there is none."""
        taken, self.attention = self.attention, None
        if taken is None:
            raise ValueError(f"magnet: layer {self.layer} has not run")
        return taken


def mean_logits(attention: JointAttention, read: Read = "scores") -> Float[Tensor, "batch text rows cols"]:
    """Each text position's map as logits, averaged over heads, with gradients to queries and keys.

    "scores" are ``(1 / H) sum_h q_h k_h^T / sqrt(d)`` of image queries and text keys, one matrix product over the widths of
    all heads. "probs" are ``logit(p)`` of the joint softmax's probabilities, averaged over heads, so that a sigmoid
    gives p.
    """
    if read == "probs":
        return _on_grid(_logit(_probs(attention).mean(1)), attention)
    layout = attention.layout
    query = rearrange(attention.query[:, :, layout.image_queries], "b h n d -> b n (h d)").float()
    key = rearrange(attention.full_key[:, :, layout.text_keys], "b h t d -> b t (h d)").float()
    return _on_grid(query @ key.transpose(-1, -2) * (attention.scale / attention.heads), attention)


def head_logits(attention: JointAttention, read: Read = "scores") -> Float[Tensor, "batch heads text rows cols"]:
    """`mean_logits` of each head by itself."""
    if read == "probs":
        return _on_grid(_logit(_probs(attention)), attention)
    layout = attention.layout
    return _on_grid(attention.scores(layout.image_queries, layout.text_keys), attention)


def picked_logits(
    attention: JointAttention, row: int, heads: Sequence[int], positions: Sequence[int], read: Read = "scores"
) -> Float[Tensor, "picked rows cols"]:
    """Maps of pairs of a head and a text position of batch row ``row``: `head_logits` computed for these alone."""
    if read == "probs" or attention.call.arguments.attn_mask is not None:
        return head_logits(attention, read)[row, list(heads), list(positions)]
    layout = attention.layout
    query = attention.query[row, list(heads)][:, layout.image_queries].float()
    key = attention.full_key[row][:, layout.text_keys][list(heads), list(positions)].float()
    return rearrange(
        torch.einsum("pnd,pd->pn", query, key * attention.scale), "p (rows cols) -> p rows cols", rows=layout.grid[0]
    )


def _probs(attention: JointAttention) -> Tensor:
    return attention.probs(attention.layout.image_queries, attention.layout.text_keys)


def _logit(probs: Tensor) -> Tensor:
    return torch.logit(probs, eps=1e-6)


def _on_grid(maps: Tensor, attention: JointAttention) -> Tensor:
    rows, cols = attention.layout.grid
    return rearrange(maps, "... (rows cols) text -> ... text rows cols", rows=rows, cols=cols)


class MaskHead(nn.Module):
    """The released training code's small 3 x 3 convolutions of 1-64-64-1 channels, whose output is added to each map.

    It is used during training only and not saved with the LoRA.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, maps: Float[Tensor, "maps rows cols"]) -> Float[Tensor, "maps rows cols"]:
        return maps + self.layers(maps[:, None])[:, 0]
