"""The slow, obvious twin of everything: the full attention matrix by one softmax in float64."""

from __future__ import annotations

import torch

from mmdit_probe.attention.kernels import AttentionArguments, AttentionCall


def full_matrix(call: AttentionCall) -> torch.Tensor:
    """(batch, heads, queries, keys) probabilities; a row that may attend to nothing is 0."""
    query, key, arguments = call.query.double(), call.key.double(), call.arguments
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scale = arguments.scale if arguments.scale is not None else query.shape[-1] ** -0.5
    scores = query @ key.transpose(-1, -2) * scale
    if arguments.is_causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    mask = arguments.attn_mask
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1).nan_to_num(0)


def random_call(batch, heads, tokens, width, dtype=torch.float32, kv_heads=None, seed=0, **arguments) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    kv_heads = heads if kv_heads is None else kv_heads

    def randn(h):
        # the layout that models use: heads are transposed out of the last axis
        return torch.randn(batch, tokens, h, width, generator=generator).to(dtype).transpose(1, 2)

    return AttentionCall(2 * randn(heads), randn(kv_heads), randn(kv_heads), AttentionArguments(**arguments))
