"""Small models of families that are given unpacked latents of one image, and of those with text as keys alone."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from conftest import make_sd3
from models import BATCH, COLS, ROWS, TEXT, Case, change_packed, change_pixel, change_word, position_ids, randn, zero
from models_image import given, latents, mask


def sd3_inputs() -> dict[str, Any]:
    return given(latents(), 250.0, pooled_projections=randn(BATCH, 8))


def cogview3() -> Any:
    return diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=8,
        sample_size=8,
    )


def cogview4() -> Any:
    return diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(8, 8),
    )


def sizes(**more: Any) -> dict[str, Any]:
    size = torch.tensor([[48.0, 64.0]] * BATCH)
    return {"target_size": size, "crop_coords": torch.zeros(BATCH, 2), **more}


def cogview_inputs(**more: Any) -> dict[str, Any]:
    size = sizes()
    return given(latents(), 250.0, original_size=size["target_size"], **size, **more)


def glm() -> Any:
    return diffusers.GlmImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=8,
    )


def glm_inputs() -> dict[str, Any]:
    ids = torch.arange(BATCH * ROWS * COLS).reshape(BATCH, -1) % 8
    absent = torch.zeros_like(ids, dtype=torch.bool)
    return given(latents(), 249.0, prior_token_id=ids, prior_token_drop=absent, **sizes())


def hidream() -> Any:
    return diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[16, 12],
        text_emb_dim=8,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
    )


def hidream_inputs() -> dict[str, Any]:
    return {
        "hidden_states": latents(),
        "timesteps": torch.full((BATCH,), 250.0),
        "encoder_hidden_states_t5": randn(BATCH, TEXT, 16),
        "encoder_hidden_states_llama3": randn(2, BATCH, 3, 12),
        "pooled_embeds": randn(BATCH, 8),
    }


def joyimage() -> Any:
    return diffusers.JoyImageEditTransformer3DModel(
        patch_size=[1, 2, 2],
        in_channels=4,
        out_channels=4,
        hidden_size=16,
        num_attention_heads=2,
        text_dim=16,
        num_layers=2,
        rope_dim_list=[2, 2, 4],
    )


def joy_pixel(inputs: dict[str, Any]) -> None:
    inputs["hidden_states"][:, -1, :, 0, 4, 3] += 2


def ernie() -> Any:
    return diffusers.ErnieImageTransformer2DModel(
        hidden_size=16,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        text_in_dim=12,
        rope_axes_dim=(2, 2, 4),
    )


def ernie_inputs() -> dict[str, Any]:
    return {
        "hidden_states": latents(),
        "timestep": torch.full((BATCH,), 250.0),
        "text_bth": randn(BATCH, TEXT, 12),
        "text_lens": torch.tensor([TEXT - 1, TEXT]),
    }


def prx() -> Any:
    return diffusers.PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=16,
        hidden_size=16,
        mlp_ratio=1.0,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
    )


def nucleus() -> Any:
    return diffusers.NucleusMoEImageTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        mlp_ratio=1.0,
        moe_enabled=False,
    )


def krea2() -> Any:
    return diffusers.Krea2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(2, 2, 4),
    )


def krea2_inputs() -> dict[str, Any]:
    ids = torch.cat([torch.zeros(TEXT, 3), position_ids(ROWS, COLS)])
    inputs = given(randn(BATCH, ROWS * COLS, 4), 0.25, position_ids=ids, encoder_attention_mask=mask())
    return inputs | {"encoder_hidden_states": randn(BATCH, TEXT, 3, 16)}


PIXEL = change_pixel(4, 3)
CASES = [
    Case("sd3", lambda: make_sd3(layers=2), sd3_inputs, change_word(), PIXEL),
    Case("sd3.5", lambda: make_sd3(layers=2, dual=(0,), qk_norm="rms_norm"), sd3_inputs, change_word(), PIXEL),
    Case("cogview3-plus", cogview3, cogview_inputs, change_word(), PIXEL),
    Case("cogview4", cogview4, lambda: cogview_inputs(attention_mask=mask()), change_word(), PIXEL),
    Case("glm-image", glm, glm_inputs, change_word(), PIXEL),
    Case(
        "hidream",
        hidream,
        hidream_inputs,
        change_word("encoder_hidden_states_t5"),
        PIXEL,
        text=TEXT + 6,
        extra=4,
    ),
    Case(
        "joyimage",
        joyimage,
        lambda: given(randn(BATCH, 3, 4, 1, ROWS * 2, COLS * 2), 250.0),
        change_word(),
        joy_pixel,
        references=((ROWS, COLS), (ROWS, COLS)),
    ),
    Case("ernie-image", ernie, ernie_inputs, change_word("text_bth"), PIXEL),
    Case("prx", prx, lambda: given(latents(), 0.25, attention_mask=mask()), change_word(), PIXEL),
    Case(
        "nucleus-image",
        nucleus,
        lambda: given(
            randn(BATCH, ROWS * COLS, 4), 0.25, img_shapes=[(1, ROWS, COLS)] * BATCH, encoder_hidden_states_mask=mask()
        ),
        change_word(),
        change_packed(),
    ),
    Case("krea2", krea2, krea2_inputs, change_word(), change_packed(), still=zero("refiner_blocks.*to_out")),
]
