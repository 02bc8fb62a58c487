"""Small models of families that make videos: two frames."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, FRAMES, ROWS, TEXT, Case, change_pixel, change_word, randn, zero
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


def hunyuan15() -> Any:
    return diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=6,
        image_embed_dim=6,
        rope_axes_dim=(2, 2, 4),
    )


def hunyuan15_inputs(image: float) -> dict[str, Any]:
    return given(
        latents(),
        250.0,
        encoder_attention_mask=mask(),
        encoder_hidden_states_2=randn(BATCH, 2, 6),
        encoder_attention_mask_2=torch.ones(BATCH, 2),
        image_embeds=image * randn(BATCH, 3, 6),
    )


def framepack() -> Any:
    return diffusers.HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=False,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 2, 4),
        has_image_proj=True,
        image_proj_dim=6,
        has_clean_x_embedder=True,
    )


def framepack_inputs() -> dict[str, Any]:
    return hunyuan_inputs(
        image_embeds=randn(BATCH, 3, 6),
        indices_latents=torch.tensor([8, 9]),
        latents_clean=latents(),
        indices_latents_clean=torch.tensor([0, 7]),
        latents_history_2x=latents(),
        indices_latents_history_2x=torch.tensor([5, 6]),
        latents_history_4x=randn(BATCH, 4, 4, ROWS * 2, COLS * 2),
        indices_latents_history_4x=torch.tensor([1, 2, 3, 4]),
    )


def easyanimate() -> Any:
    return diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=16,
        text_embed_dim_t5=6,
    )


def mochi() -> Any:
    return diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=TEXT,
    )


CASES = [
    Case(
        "hunyuan-video",
        hunyuan,
        lambda: hunyuan_inputs(guidance=torch.full((BATCH,), 6000.0)),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        still=zero("token_refiner.*(to_out|ff)"),
    ),
    Case(
        "hunyuan-video-i2v",
        lambda: hunyuan(image_condition_type="token_replace", guidance_embeds=False),
        hunyuan_inputs,
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        still=zero("token_refiner.*(to_out|ff)"),
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
    Case(
        "hunyuan-video-1.5",
        hunyuan15,
        lambda: hunyuan15_inputs(0),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        text=TEXT + 2 + 3,
        word=2 + 3,
        still=zero("token_refiner.*(to_out|ff)"),
    ),
    Case(
        "hunyuan-video-1.5-i2v",
        hunyuan15,
        lambda: hunyuan15_inputs(1),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        text=TEXT + 2,
        word=2 + 3,
        references=(3,),
        still=zero("token_refiner.*(to_out|ff)"),
    ),
    Case(
        "framepack",
        framepack,
        framepack_inputs,
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        extra=2 * ROWS * COLS + 2 * 2 + 1,
        references=(3,),
        still=zero("token_refiner.*(to_out|ff)"),
    ),
    Case(
        "easyanimate",
        easyanimate,
        lambda: given(latents(), 250.0, encoder_hidden_states_t5=randn(BATCH, 2, 6)),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        text=TEXT + 2,
    ),
    Case(
        "mochi",
        mochi,
        lambda: given(latents(), 750.0, encoder_attention_mask=mask()),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        still=zero("time_embed.pooler.to_out"),  # the pooled text goes into every token
    ),
]
