"""An SD3-size block stack whose blocks share one set of weights, so that 24 of them fit anywhere."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel

HEADS, HEAD_WIDTH, TEXT = 24, 64, 154


def block_stack(layers: int) -> SD3Transformer2DModel:
    """SD3 medium's width (1536, 24 heads of 64); all blocks but the last, which drops the text, are alike."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=layers,
            attention_head_dim=HEAD_WIDTH,
            num_attention_heads=HEADS,
            joint_attention_dim=64,
            caption_projection_dim=HEADS * HEAD_WIDTH,
            pooled_projection_dim=64,
            pos_embed_max_size=96,
        )
    position = SD3Transformer2DModel(
        sample_size=128, patch_size=2, num_layers=0, pos_embed_max_size=96, attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
    ).pos_embed.pos_embed  # fmt: skip
    shared: dict[str, torch.Tensor] = {}
    weights = {}
    for name, empty in model.state_dict().items():
        kind = name.split(".", 2)[2] if name.startswith("transformer_blocks.") else name
        if name.startswith(f"transformer_blocks.{layers - 1}."):
            kind = "last." + kind
        if kind not in shared:
            shared[kind] = position if name == "pos_embed.pos_embed" else 0.02 * torch.randn(empty.shape)
        weights[name] = shared[kind]
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def inputs(side: int) -> dict[str, torch.Tensor]:
    """One latent of ``side`` x ``side`` tokens and 154 text tokens."""
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 16, 2 * side, 2 * side, generator=generator),
        "encoder_hidden_states": torch.randn(1, TEXT, 64, generator=generator),
        "pooled_projections": torch.randn(1, 64, generator=generator),
        "timestep": torch.tensor([500.0]),
    }
