"""Small U-Nets beside Stable Diffusion's, and the older models of single images with plain cross-attention."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, FRAMES, ROWS, TEXT, Case, change_pixel, change_word, randn, zero
from models_cross import unet_still
from models_image import given, latents, mask
from models_video import GRID, PATCH

BLOCKS = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 4,
    "cross_attention_dim": 16,
}  # fmt: skip


def sampled(inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["sample"] = inputs.pop("hidden_states")
    return inputs


def dreamlite() -> Any:
    return diffusers.DreamLiteUNetModel(
        **{**BLOCKS, "norm_num_groups": 8}, block_out_channels=(32, 64), attention_head_dim=8,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "DreamLiteCrossAttnUpBlock2D"), mid_block_type=None,
        transformer_layers_per_block=1,
    )  # fmt: skip


def dreamlite_inputs() -> dict[str, Any]:
    """The image that is made, and to its right the one to edit."""
    return sampled(given(randn(BATCH, 4, ROWS, 2 * COLS), 250.0))


def unet_3d() -> Any:
    return diffusers.UNet3DConditionModel(
        **BLOCKS, block_out_channels=(8, 8), attention_head_dim=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip


def unet_motion() -> Any:
    return diffusers.UNetMotionModel(
        **BLOCKS, block_out_channels=(8, 8), num_attention_heads=2, motion_num_attention_heads=2,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip


def video_inputs(rows_of_text: int = BATCH) -> dict[str, Any]:
    inputs = sampled(given(randn(BATCH, 4, FRAMES, ROWS, COLS), 250.0))
    return inputs | {"encoder_hidden_states": randn(BATCH, TEXT, 16).repeat_interleave(rows_of_text // BATCH, 0)}


def frames_still(model: Any) -> None:
    """Nothing mixes frames or pixels before the first layer, but normalization."""
    unet_still(model)
    zero(r"temp_convs.*conv4|temp_attentions|transformer_in|motion_modules")(model)
    for weight in model.parameters():
        if weight.ndim == 5 and weight.shape[-1] == 3:
            center = weight[..., 1, 1, 1].clone()
            weight.zero_()[..., 1, 1, 1] = center


def kandinsky3() -> Any:
    return diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=16,
    )  # fmt: skip


def kandinsky3_inputs() -> dict[str, Any]:
    """Words are asked for from the second level on, at half the size."""
    latents = randn(BATCH, 4, 2 * ROWS, 2 * COLS)
    return sampled(given(latents, 250.0, encoder_attention_mask=torch.ones(BATCH, TEXT)))


def kandinsky3_still(model: Any) -> None:
    """The pooled text does not enter the norms."""
    unet_still(model)
    zero("add_time_condition")(model)


def cascade() -> Any:
    return diffusers.StableCascadeUNet(
        conditioning_dim=16, block_out_channels=(16, 32), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        switch_level=(False,), clip_text_in_channels=16, clip_text_pooled_in_channels=16, clip_image_in_channels=8,
        clip_seq=1, in_channels=4, out_channels=4, dropout=(0.0, 0.0), self_attn=True,
        timestep_ratio_embedding_dim=16, patch_size=1,
    )  # fmt: skip


def cascade_inputs() -> dict[str, Any]:
    return {
        "sample": randn(BATCH, 4, ROWS, COLS), "timestep_ratio": torch.full((BATCH,), 0.25),
        "clip_text_pooled": randn(BATCH, 1, 16), "clip_text": randn(BATCH, TEXT, 16), "clip_img": randn(BATCH, 1, 8),
    }  # fmt: skip


def hunyuan_dit() -> Any:
    return diffusers.HunyuanDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        cross_attention_dim=16, cross_attention_dim_t5=8, pooled_projection_dim=4, hidden_size=16, text_len=TEXT,
        text_len_t5=3,
    )  # fmt: skip


def hunyuan_dit_inputs() -> dict[str, Any]:
    image = ROWS * COLS
    return given(
        latents(), 250.0, text_embedding_mask=mask(), encoder_hidden_states_t5=randn(BATCH, 3, 8),
        text_embedding_mask_t5=torch.ones(BATCH, 3), image_meta_size=torch.tensor([[1024.0, 1024, 16, 16, 0, 0]] * BATCH),
        style=torch.zeros(BATCH, dtype=torch.long), image_rotary_emb=(torch.ones(image, 8), torch.zeros(image, 8)),
    )  # fmt: skip


def lumina_next() -> Any:
    return diffusers.LuminaNextDiT2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3, num_kv_heads=1,
        multiple_of=16, learn_sigma=False, cross_attention_dim=16,
    )  # fmt: skip


def lumina_next_inputs() -> dict[str, Any]:
    turns = torch.polar(torch.ones(384, 384, 4), randn(384, 384, 4))
    return given(latents(), 0.75, encoder_mask=mask(), image_rotary_emb=turns, cross_attention_kwargs={})


def transformer_2d(**more: Any) -> Any:
    return diffusers.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, cross_attention_dim=16, sample_size=8,
        norm_num_groups=4, **more,
    )  # fmt: skip


PATCHES = {
    "patch_size": 2, "out_channels": 8, "caption_channels": 16, "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000, "attention_bias": True, "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False, "use_additional_conditions": False,
}  # fmt: skip
SELF, POOLED = zero("attn1.to_out"), zero("attn1.to_out|caption_embedder")
FRAME = {"grid": GRID, "patch": PATCH, "still": frames_still, "mixed": True}
WHOLE = change_pixel(2, 1, name="sample")
LATER = change_pixel(1, 2, 1, name="sample")

LEVEL = {"layers": 4, "recorded": (0, 2, 3)}
CASES = [
    Case("dreamlite", dreamlite, dreamlite_inputs, change_word(), WHOLE, layers=3, still=unet_still, mixed=True),
    Case("unet-3d", unet_3d, video_inputs, change_word(), LATER, **LEVEL, **FRAME),
    Case("animatediff", unet_motion, lambda: video_inputs(BATCH * FRAMES), change_word(), LATER, **LEVEL, **FRAME),
    Case(
        "kandinsky3",
        kandinsky3,
        kandinsky3_inputs,
        change_word(),
        change_pixel(4, 3, name="sample"),
        layers=9,
        recorded=(0, 1, 2),
        still=kandinsky3_still,
        mixed=True,
    ),
    Case(
        "stable-cascade",
        cascade,
        cascade_inputs,
        change_word("clip_text"),
        WHOLE,
        layers=4,
        extra=2,
        still=unet_still,
        mixed=True,
    ),
    Case(
        "hunyuan-dit",
        hunyuan_dit,
        hunyuan_dit_inputs,
        change_word(),
        change_pixel(4, 3),
        text=TEXT + 3,
        still=SELF,
    ),
    Case("lumina-next", lumina_next, lumina_next_inputs, change_word(), change_pixel(4, 3), still=POOLED),
    Case(
        "transformer-2d",
        transformer_2d,
        lambda: given(latents(patch=1), 250.0),
        change_word(),
        change_pixel(2, 1),
        still=SELF,
        mixed=True,
    ),
    Case(
        "transformer-2d-patches",
        lambda: transformer_2d(**PATCHES),
        lambda: given(latents(), 250.0, added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
        change_word(),
        change_pixel(4, 3),
        still=SELF,
    ),
]
