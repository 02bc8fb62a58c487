"""Small video models with plain cross-attention that are not built on Wan."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, FRAMES, ROWS, TEXT, Case, change_packed, change_pixel, change_word, randn, zero
from models_image import given, mask
from models_video import GRID, PATCH, latents

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2}
STILL = zero(r"attn1\.to_out|self_attention\.out_layer|text_transformer_blocks.*out_layer")


def ltx2() -> Any:
    return diffusers.LTX2VideoTransformer3DModel(
        **HEADS, cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, caption_channels=16, rope_double_precision=False,
    )  # fmt: skip


def ltx2_inputs(conditions: int = 0) -> dict[str, Any]:
    """Tokens of given frames stand behind the video's, with coordinates of their own."""
    tokens = FRAMES * ROWS * COLS + conditions
    sound = {"audio_hidden_states": randn(BATCH, 3, 4), "audio_encoder_hidden_states": randn(BATCH, TEXT, 16)}
    sizes = {"num_frames": FRAMES, "height": ROWS, "width": COLS, "audio_num_frames": 3, "fps": 25.0}
    if conditions:
        sizes["video_coords"] = randn(BATCH, 3, tokens, 2).abs()
    masks = {"encoder_attention_mask": mask(), "audio_encoder_attention_mask": mask()}
    return given(randn(BATCH, tokens, 4), 250.0, **sound, **sizes, **masks)


def kandinsky5(**more: Any) -> Any:
    return diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, out_visual_dim=4, model_dim=32, ff_dim=16,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6), **more,
    )  # fmt: skip


def channels_last(frames: int, channels: int, side: int = 1) -> torch.Tensor:
    return randn(BATCH, frames, ROWS * 2 * side, COLS * 2 * side, channels)


def kandinsky5_inputs(frames: int, channels: int = 4) -> dict[str, Any]:
    places = [torch.arange(frames), torch.arange(ROWS), torch.arange(COLS)]
    more = {"pooled_projections": randn(BATCH, 8), "visual_rope_pos": places, "text_rope_pos": torch.arange(TEXT)}
    return given(channels_last(frames, channels), 250.0, **more)


def kandinsky6(**more: Any) -> Any:
    return diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, model_dim=32, ff_dim=16,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6), visual_cond=False, in_audio_dim=6, out_audio_dim=6, **more,
    )  # fmt: skip


def kandinsky6_inputs(tail: int = 0, **more: Any) -> dict[str, Any]:
    """With a clean first frame as a further, last one."""
    if tail:
        kinds = torch.zeros(BATCH, FRAMES + tail, dtype=torch.long)
        kinds[:, FRAMES:] = 1
        more["visual_token_type_ids"] = kinds
    seen = {"pooled_projections": randn(BATCH, 8), "encoder_attention_mask": mask()[:, None, None]}
    return given(channels_last(FRAMES + tail, 4), 250.0, **seen, **more)


def last_pixel(*where: int) -> Any:
    """Change one latent pixel of latents with the channels last."""

    def change(inputs: dict[str, Any]) -> None:
        inputs["hidden_states"][(slice(None), *where)] += 2

    return change


def cosmos(image: bool = False) -> Any:
    more = {"img_context_dim_in": 6, "img_context_num_tokens": 3, "img_context_dim_out": 24} if image else {}
    return diffusers.CosmosTransformer3DModel(
        **{**HEADS, "attention_head_dim": 12}, concat_padding_mask=False, mlp_ratio=2, text_embed_dim=16, adaln_lora_dim=4,
        max_size=(4, 16, 16), **more,
    )  # fmt: skip


def cosmos_image_inputs() -> dict[str, Any]:
    """The words and an image's features; a noise level for each frame."""
    inputs = given(latents(), 0.0, fps=24)
    levels = torch.tensor([0.0, 0.25]).reshape(1, 1, FRAMES, 1, 1).expand(BATCH, -1, -1, -1, -1)
    return inputs | {"timestep": levels, "encoder_hidden_states": (inputs["encoder_hidden_states"], randn(BATCH, 3, 6))}


def cosmos_word(inputs: dict[str, Any]) -> None:
    inputs["encoder_hidden_states"][0][:, 3] += 1 + randn(BATCH, 16)


def sana_video() -> Any:
    return diffusers.SanaVideoTransformer3DModel(
        **{**HEADS, "attention_head_dim": 12}, num_cross_attention_heads=2, cross_attention_head_dim=12,
        cross_attention_dim=24, caption_channels=16, rope_max_seq_len=32, sample_size=8,
    )  # fmt: skip


def sana_wm() -> Any:
    return diffusers.SanaWMTransformer3DModel(
        in_channels=4, num_layers=2, hidden_size=24, num_attention_heads=2, patch_size=(1, 1, 1), softmax_every_n=2,
        linear_head_dim=12, caption_channels=16, chunk_plucker_post_attn_blocks=0, mlp_ratio=2.0,
    )  # fmt: skip


def sana_wm_inputs() -> dict[str, Any]:
    inputs = given(randn(BATCH, 4, FRAMES, ROWS, COLS), 0.0, encoder_attention_mask=mask())
    times = torch.full((BATCH, 1, FRAMES), 250.0)
    return inputs | {"timestep": times, "encoder_hidden_states": randn(BATCH, 1, TEXT, 16)}


def sana_wm_word(inputs: dict[str, Any]) -> None:
    inputs["encoder_hidden_states"][:, :, 3] += 1 + randn(BATCH, 1, 16)


def allegro() -> Any:
    return diffusers.AllegroTransformer3DModel(
        **HEADS, cross_attention_dim=16, sample_width=COLS * 2, sample_height=ROWS * 2, sample_frames=FRAMES,
        caption_channels=16,
    )  # fmt: skip


def latte() -> Any:
    return diffusers.LatteTransformer3DModel(
        **{**HEADS, "out_channels": 8}, sample_size=8, patch_size=2, caption_channels=16, cross_attention_dim=16,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, video_length=FRAMES,
    )  # fmt: skip


def case(
    name: str, make: Any, inputs: Any, word: Any = None, pixel: Any = None, still: Any = STILL, **more: Any
) -> Case:
    changes = word or change_word(), pixel or change_pixel(1, 4, 3)
    return Case(name, make, inputs, *changes, **{"grid": GRID, "patch": PATCH, "still": still, **more})


PACKED = change_packed((ROWS + 2) * COLS + 1)
NAN = float("nan")

CASES = [
    case("ltx-2", ltx2, ltx2_inputs, pixel=PACKED),
    case("ltx-2-conditions", ltx2, lambda: ltx2_inputs(7), pixel=PACKED),
    case("kandinsky5", kandinsky5, lambda: kandinsky5_inputs(FRAMES), pixel=last_pixel(1, 4, 3)),
    case(
        "kandinsky5-image",
        lambda: kandinsky5(visual_cond=True),
        lambda: kandinsky5_inputs(1, 9),
        pixel=last_pixel(0, 4, 3),
        grid=GRID[1:],
        patch=PATCH[1:],
    ),
    case(
        "kandinsky5-many-frames",  # as many as channels
        kandinsky5,
        lambda: kandinsky5_inputs(4),
        pixel=last_pixel(3, 4, 3),
        grid=(4, *GRID[1:]),
        patch=(3, *PATCH[1:]),
    ),
    case("kandinsky6", kandinsky6, kandinsky6_inputs, pixel=last_pixel(1, 4, 3)),
    case(
        "kandinsky6-audio",
        kandinsky6,
        lambda: kandinsky6_inputs(audio_hidden_states=randn(BATCH, 3, 6)),
        pixel=last_pixel(1, 4, 3),
    ),
    case(
        "kandinsky6-image",
        lambda: kandinsky6(visual_token_type_num_embeddings=2),
        lambda: kandinsky6_inputs(1),
        pixel=last_pixel(1, 4, 3),
    ),
    case("cosmos", cosmos, lambda: given(latents(), 0.25, fps=24), sigma=NAN),
    case("cosmos-image", lambda: cosmos(True), cosmos_image_inputs, word=cosmos_word),
    case("sana-video", sana_video, lambda: given(latents(), 250.0, encoder_attention_mask=mask())),
    case(
        "sana-wm",
        sana_wm,
        sana_wm_inputs,
        word=sana_wm_word,
        pixel=change_pixel(1, 2, 1),
        still=zero(r"blocks.0.attn.(proj|out_proj|output_gate)"),
    ),
    case("allegro", allegro, lambda: given(latents(), 250.0, encoder_attention_mask=mask())),
    case("latte", latte, lambda: given(latents(), 250.0)),
]
