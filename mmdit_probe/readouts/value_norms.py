"""Norms of the value vectors, by stream."""

from __future__ import annotations

import torch

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .base import Field, Fields, Readout

STREAMS = ("image", "text", "prompt")


class ValueNorms(Readout):
    """``value_norm`` (batch, head, stream): mean L2 norm of the value vectors (Seg4Diff, Fig. 4).

    Streams are image, text (all text positions) and prompt (words only; NaN where it is not known which
    positions are words). The image is NaN in plain cross-attention, whose values are text alone.
    """

    def measure(self, attention: JointAttention) -> Fields:
        norms = attention.value.float().norm(dim=-1)
        layout, text = attention.layout, attention.text
        image, words = norms[..., layout.image_keys].mean(-1), norms[..., layout.text_keys]
        prompt = torch.full_like(image, torch.nan)
        if text is not None:
            chosen = torch.from_numpy(text.is_prompt).to(words.device)[:, None]
            prompt = (words * chosen).sum(-1) / chosen.sum(-1)  # an empty prompt has no words: 0 / 0 = NaN
        return {"value_norm": Field(("batch", "head", "stream"), torch.stack([image, words.mean(-1), prompt], -1))}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * len(STREAMS)
