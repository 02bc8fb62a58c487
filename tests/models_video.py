"""Small models of families that make videos: two frames."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, FRAMES, ROWS, TEXT, Case, change_pixel, change_word, randn
from models_image import given, mask

GRID, PATCH = (FRAMES, ROWS, COLS), (1, 2, 1)


def latents(channels: int = 4, patch: int = 2) -> torch.Tensor:
    return randn(BATCH, channels, FRAMES, ROWS * patch, COLS * patch)


def hunyuan(**options: Any) -> Any:
    return diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 2, 4),
        **options,
    )


def hunyuan_inputs(**more: Any) -> dict[str, Any]:
    return given(latents(), 250.0, encoder_attention_mask=mask(), pooled_projections=randn(BATCH, 8), **more)


def cogvideox(**options: Any) -> Any:
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        sample_width=COLS * 2,
        sample_height=ROWS * 2,
        sample_frames=5,
        patch_size=2,
        max_text_seq_length=TEXT,
        **options,
    )


def cogvideox_inputs(frames: int = FRAMES) -> dict[str, Any]:
    return given(randn(BATCH, frames, 4, ROWS * 2, COLS * 2), 250.0)


def cogvideox_pixel(frame: int) -> Any:
    def change(inputs: dict[str, Any]) -> None:
        inputs["hidden_states"][:, frame, :, 4, 3] += 2

    return change


CASES = [
    Case(
        "hunyuan-video",
        hunyuan,
        lambda: hunyuan_inputs(guidance=torch.full((BATCH,), 6000.0)),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        mixed_text=True,
    ),
    Case(
        "hunyuan-video-i2v",
        lambda: hunyuan(image_condition_type="token_replace", guidance_embeds=False),
        hunyuan_inputs,
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        mixed_text=True,
    ),
    Case("cogvideox", cogvideox, cogvideox_inputs, change_word(), cogvideox_pixel(1), GRID, PATCH),
    Case(
        "cogvideox-1.5",
        lambda: cogvideox(patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True),
        lambda: cogvideox_inputs(4),
        change_word(),
        cogvideox_pixel(3),
        GRID,
        PATCH,
    ),
]
