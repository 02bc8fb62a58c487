"""Small models with plain cross-attention."""

from __future__ import annotations

from typing import Any

import diffusers
from models import BATCH, COLS, FRAMES, ROWS, Case, change_packed, change_pixel, change_word, randn, zero
from models_image import given, latents, mask
from models_video import GRID, PATCH
from models_video import latents as video_latents


def unet(**options: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        **options,
    )


def unet_still(model: Any) -> None:
    """No self-attention, and convolutions that look at their own pixel alone."""
    zero("attn1.to_out")(model)
    for weight in model.parameters():
        if weight.ndim == 4 and weight.shape[-1] == 3:
            center = weight[..., 1, 1].clone()
            weight.zero_()[..., 1, 1] = center


def unet_inputs() -> dict[str, Any]:
    inputs = given(randn(BATCH, 4, ROWS, COLS), 250.0, encoder_attention_mask=mask())
    inputs["sample"] = inputs.pop("hidden_states")
    return inputs


def pixart() -> Any:
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        norm_num_groups=4,
        cross_attention_dim=16,
        sample_size=8,
        patch_size=2,
        caption_channels=16,
        use_additional_conditions=False,
    )


def sana() -> Any:
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        patch_size=1,
    )


def wan(**options: Any) -> Any:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=8,
        ffn_dim=16,
        num_layers=2,
        rope_max_seq_len=16,
        **options,
    )


def wan_i2v_inputs() -> dict[str, Any]:
    """The class takes all but the last 512 positions for an image's, on which a second attention runs."""
    inputs = given(video_latents(), 250.0, encoder_hidden_states_image=randn(BATCH, 3, 6))
    return inputs | {"encoder_hidden_states": randn(BATCH, 512, 16)}


def ltx() -> Any:
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )


def ltx_inputs() -> dict[str, Any]:
    packed = randn(BATCH, FRAMES * ROWS * COLS, 4)
    return given(packed, 250.0, encoder_attention_mask=mask(), num_frames=FRAMES, height=ROWS, width=COLS)


CASES = [
    Case(
        "unet",
        unet,
        unet_inputs,
        change_word(),
        change_pixel(2, 1, name="sample"),
        layers=3,
        still=unet_still,
        mixed=True,
    ),
    Case(
        "pixart",
        pixart,
        lambda: given(latents(), 250.0, encoder_attention_mask=mask()),
        change_word(),
        change_pixel(4, 3),
        still=zero("attn1.to_out"),
    ),
    Case(
        "sana",
        sana,
        lambda: given(latents(patch=1), 250.0, encoder_attention_mask=mask()),
        change_word(),
        change_pixel(2, 1),
        still=zero("attn1.to_out"),
    ),
    Case(
        "wan-i2v",
        lambda: wan(image_dim=6, added_kv_proj_dim=24),
        wan_i2v_inputs,
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        text=512,
        still=zero("attn1.to_out"),
    ),
    Case(
        "wan",
        wan,
        lambda: given(video_latents(), 250.0),
        change_word(),
        change_pixel(1, 4, 3),
        GRID,
        PATCH,
        still=zero("attn1.to_out"),
    ),
    Case(
        "ltx-video",
        ltx,
        ltx_inputs,
        change_word(),
        change_packed((ROWS + 2) * COLS + 1),
        GRID,
        PATCH,
        still=zero("attn1.to_out"),
    ),
]
