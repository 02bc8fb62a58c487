"""Small models of families that make one image from latents."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, ROWS, TEXT, Case, change_packed, change_pixel, change_word, randn, zero


def latents(channels: int = 4, patch: int = 2) -> torch.Tensor:
    return randn(BATCH, channels, ROWS * patch, COLS * patch)


def given(hidden_states: torch.Tensor, time: float, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": hidden_states,
        "encoder_hidden_states": randn(BATCH, TEXT, 16),
        "timestep": torch.full((BATCH,), time),
        **more,
    }


def qwen(**options: Any) -> Any:
    return diffusers.QwenImageTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **options,
    )


def mask(*absent: int) -> torch.Tensor:
    """(batch, text): the last word of the first sample is padding."""
    keep = torch.ones(BATCH, TEXT, dtype=torch.bool)
    keep[0, TEXT - 1] = False
    return keep


def qwen_inputs(*more: tuple[int, int, int]) -> dict[str, Any]:
    shapes = [(1, ROWS, COLS), *more]
    packed = sum(frames * rows * cols for frames, rows, cols in shapes)
    return given(randn(BATCH, packed, 4), 0.25, img_shapes=[shapes] * BATCH, encoder_hidden_states_mask=mask())


def aura_flow() -> Any:
    return diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )


def z_image() -> Any:
    return diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 2, 2],
        axes_lens=[256, 32, 32],
    )


def z_image_inputs(*lengths: int) -> dict[str, Any]:
    return {
        "x": list(randn(BATCH, 4, 1, ROWS * 2, COLS * 2)),
        "cap_feats": [randn(length, 16) for length in lengths],
        "t": torch.full((BATCH,), 0.75),
    }


def z_word(inputs: dict[str, Any]) -> None:
    for caption in inputs["cap_feats"]:
        caption[3] *= -3


def z_pixel(inputs: dict[str, Any]) -> None:
    for image in inputs["x"]:
        image[:, 0, 4, 3] += 8


def lumina2() -> Any:
    return diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 16, 16),
        cap_feat_dim=16,
    )


def lumina2_inputs(*lengths: int) -> dict[str, Any]:
    keep = torch.arange(TEXT) < torch.tensor(lengths)[:, None]
    return given(latents(), 0.75, encoder_attention_mask=keep)


CASES = [
    Case("qwen", qwen, qwen_inputs, change_word(), change_packed()),
    Case(
        "qwen-edit",
        lambda: qwen(zero_cond_t=True),
        lambda: qwen_inputs((1, 2, 3)),
        change_word(),
        change_packed(),
        references=((2, 3),),
    ),
    Case("auraflow", aura_flow, lambda: given(latents(), 0.25), change_word(), change_pixel(4, 3), extra=8),
    Case(
        "z-image",
        z_image,
        lambda: z_image_inputs(5, 7),
        z_word,
        z_pixel,
        text=32,
        extra=20,
        still=zero("refiner.*to_out"),
    ),
    Case(
        "z-image-ragged",
        z_image,
        lambda: z_image_inputs(5, 40),
        z_word,
        z_pixel,
        text=64,
        extra=20,
        still=zero("refiner.*to_out"),
    ),
    Case(
        "lumina2",
        lumina2,
        lambda: lumina2_inputs(5, 5),
        change_word(),
        change_pixel(4, 3),
        still=zero("refiner.*to_out"),
    ),
    Case(
        "lumina2-ragged",
        lumina2,
        lambda: lumina2_inputs(4, 5),
        change_word(),
        change_pixel(4, 3),
        still=zero("refiner.*to_out"),
    ),
]
