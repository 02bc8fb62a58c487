"""Small models with joint attention whose tokens stand in one sequence, in an order that is told."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import (
    BATCH,
    COLS,
    FRAMES,
    ROWS,
    TEXT,
    Case,
    change_packed,
    change_pixel,
    change_word,
    position_ids,
    randn,
    zero,
)
from models_image import given, latents, mask
from models_image import latents as image_latents
from models_video import GRID, PATCH, cogvideox_pixel
from models_video import latents as video_latents

IMAGE, VIDEO = ROWS * COLS, FRAMES * ROWS * COLS
SCALE = torch.tensor([1, 0.5, 0.5, 1])


def flux3() -> Any:
    return diffusers.Flux3Transformer2DModel(
        in_channels=4, cond_in_channels=6, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4),
    )  # fmt: skip


def flux3_inputs(reference: bool = False) -> dict[str, Any]:
    """Position ids are scaled; references come in arguments of their own."""
    words = torch.zeros(TEXT, 4)
    words[:, 3] = torch.arange(TEXT)
    inputs = given(randn(BATCH, IMAGE, 4), 0.25, img_ids=position_ids(ROWS, COLS, width=4) * SCALE, txt_ids=words)
    if reference:
        ids = position_ids(2, 3, width=4) * SCALE
        ids[:, 3] = -1
        inputs |= {"image_cond_hidden_states": randn(BATCH, 6, 6), "image_cond_ids": ids}
    return inputs


def hunyuan_image(**more: Any) -> Any:
    options: dict[str, Any] = {"patch_size": (1, 1), "text_embed_2_dim": 8, "rope_axes_dim": (4, 4), **more}
    return diffusers.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, text_embed_dim=16, **options,
    )  # fmt: skip


def hunyuan_image_inputs(glyphs: bool = True, refiner: bool = False) -> dict[str, Any]:
    image = randn(BATCH, 4, FRAMES, ROWS, COLS) if refiner else image_latents(patch=1)
    inputs = given(image, 250.0, encoder_attention_mask=torch.ones(BATCH, TEXT))
    if glyphs:
        inputs |= {"encoder_hidden_states_2": randn(BATCH, 3, 8), "encoder_attention_mask_2": torch.ones(BATCH, 3)}
    return inputs


def ideogram4() -> Any:
    return diffusers.Ideogram4Transformer2DModel(
        in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, intermediate_size=16, adaln_dim=8,
        llm_features_dim=16, rope_theta=10000, mrope_section=(4, 2, 2),
    )  # fmt: skip


def ideogram4_inputs() -> dict[str, Any]:
    """Padding in front, words, image; what is not theirs is zero in each of the two inputs."""
    tokens, pad = TEXT + IMAGE, 2
    kinds, segments = torch.full((BATCH, tokens), 3), torch.ones(BATCH, tokens, dtype=torch.long)
    kinds[:, TEXT:], kinds[0, :pad], segments[0, :pad] = 2, 0, -1
    places = torch.zeros(BATCH, tokens, 3, dtype=torch.long)
    places[:, :TEXT], places[:, TEXT:] = torch.arange(TEXT)[:, None], 65536 + position_ids(ROWS, COLS).long()
    inputs = given(randn(BATCH, tokens, 4), 0.75, position_ids=places, segment_ids=segments, indicator=kinds)
    inputs["encoder_hidden_states"] = randn(BATCH, tokens, 16) * (kinds == 3)[..., None]
    inputs["hidden_states"][:, :TEXT] = 0
    return inputs


def omnigen() -> Any:
    return diffusers.OmniGenTransformer2DModel(
        in_channels=4, hidden_size=16, num_attention_heads=4, num_key_value_heads=4, intermediate_size=16, num_layers=2,
        pad_token_id=0, vocab_size=50, time_step_dim=4, pos_embed_max_size=16,
        rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
    )  # fmt: skip


def omnigen_inputs(reference: int = 0) -> dict[str, Any]:
    """Words causally (with a reference image behind the second), a token for the time, the image; the first sample is padded."""
    text = TEXT + reference
    tokens = text + 1 + IMAGE
    seen = torch.zeros(BATCH, tokens, tokens)
    seen[:, :text, :text] = torch.tril(torch.ones(text, text))
    seen[:, text:] = 1
    seen[:, text, text + 1 :] = 0
    seen[0, 1:, 0] = 0
    inputs = {
        "hidden_states": latents(), "timestep": torch.full((BATCH,), 0.75), "attention_mask": seen,
        "input_ids": torch.arange(1, text + 1).repeat(BATCH, 1), "position_ids": torch.arange(tokens).expand(BATCH, -1),
        "input_img_latents": [], "input_image_sizes": {},
    }  # fmt: skip
    if reference:
        inputs["input_img_latents"] = [randn(1, 4, 4, 6)] * BATCH
        inputs["input_image_sizes"] = {row: [[2, 2 + reference]] for row in range(BATCH)}
    return inputs


def other_word(place: int) -> Any:
    def change(inputs: dict[str, Any]) -> None:
        inputs["input_ids"][..., place] = 40

    return change


def minimax_h3() -> Any:
    return diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=2, attention_head_dim=16, hidden_size=24, num_layers=2, num_refiner_layers=1, ffn_dim=16,
        in_channels=4, audio_in_channels=6, text_dim=16, freq_dim=8, time_embed_hidden_dim=24, time_embed_dim=16,
        rope_freq_dim=2,
    )  # fmt: skip


def minimax_h3_inputs(given_frames: int = 0) -> dict[str, Any]:
    """Words, given frames, audio, video; words and given frames are without noise; rows and columns are scaled."""
    held, sound = given_frames * IMAGE, 4
    spans = torch.arange(TEXT + held + sound + VIDEO).split([TEXT, held, sound, VIDEO])
    text, shown, audio, video = spans
    tokens = int(video[-1]) + 1
    kinds, times = torch.zeros(tokens, dtype=torch.long), torch.ones(tokens, dtype=torch.long)
    kinds[audio], kinds[shown], kinds[video], times[text], times[shown] = 1, 2, 2, 0, 0
    places = torch.zeros(tokens, 3, dtype=torch.float64)
    places[text, 0] = torch.arange(TEXT).double()
    grid = torch.cartesian_prod(torch.tensor([5, 6.67]), torch.arange(ROWS) * 9.3 - 14, torch.arange(COLS) * 7.5 + 2)
    places[video], places[audio, 0] = grid.double(), TEXT + torch.arange(sound).double()
    places[shown] = torch.cat([grid[:IMAGE].double()] * given_frames) if given_frames else places[shown]
    return {
        "hidden_states": randn(BATCH, held + VIDEO, 16), "audio_hidden_states": randn(BATCH, sound, 6),
        "encoder_hidden_states": randn(BATCH, TEXT, 16), "timestep": torch.tensor([0.0, 250.0]), "timestep_indices": times,
        "token_tags": kinds, "position_ids": places, "video_indices": torch.cat([shown, video]), "audio_indices": audio,
        "text_indices": text,
    }  # fmt: skip


def cosmos3() -> Any:
    return diffusers.Cosmos3OmniTransformer(
        head_dim=12, hidden_size=24, intermediate_size=24, latent_channel=2, latent_patch_size=2, num_attention_heads=4,
        num_hidden_layers=2, num_key_value_heads=2, patch_latent_dim=8, rope_axes_dim=[2, 2, 2], vocab_size=50,
    )  # fmt: skip


def cosmos3_inputs(given_frames: int = 0) -> dict[str, Any]:
    """One sample without a batch axis: words, then the video, whose first frames may be given."""
    frames = FRAMES + given_frames
    tokens = TEXT + frames * IMAGE
    vision = torch.arange(TEXT, tokens)
    made = vision[given_frames * IMAGE :]
    return {
        "input_ids": torch.arange(1, TEXT + 1), "text_indexes": torch.arange(TEXT), "und_len": TEXT,
        "position_ids": torch.arange(tokens).expand(3, -1).clone(), "sequence_length": tokens,
        "vision_tokens": [randn(1, 2, frames, ROWS * 2, COLS * 2)], "vision_token_shapes": [(frames, ROWS, COLS)],
        "vision_sequence_indexes": vision, "vision_mse_loss_indexes": made,
        "vision_timesteps": torch.full((len(made),), 250.0),
        "vision_noisy_frame_indexes": [torch.arange(given_frames, frames)],
    }  # fmt: skip


def cosmos3_pixel(frame: int) -> Any:
    def change(inputs: dict[str, Any]) -> None:
        inputs["vision_tokens"][0][0, :, frame, 4, 3] += 2

    return change


def qwen21() -> Any:
    return diffusers.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=16,
        mlp_ratio=2, axes_dims_rope=(4, 6, 6), causal_condition=True,
    )  # fmt: skip


def qwen21_inputs(reference: bool = False) -> dict[str, Any]:
    """An image of 4 x 6 tokens; a reference of 4 x 4 in four places of the text, behind the second word."""
    slots = [False] * 2 + [True] * 4 * reference + [False] * (TEXT - 2)
    shapes = [(1, 4, 4)] * reference + [(1, 4, 6)]
    inputs = given(randn(BATCH, 24 + 16 * reference, 4), 0.25, img_shapes=[shapes] * BATCH)
    seen = torch.ones(BATCH, len(slots), dtype=torch.long)
    seen[0, -1] = 0
    return inputs | {
        "encoder_hidden_states": randn(BATCH, len(slots), 16), "encoder_hidden_states_mask": seen,
        "img_mask": torch.tensor([slots + [True] * 6] * BATCH),
    }  # fmt: skip


def fibo2() -> Any:
    return diffusers.BriaFibo2Transformer2DModel(
        in_channels=4, dim=64, n_layers=3, n_refiner_layers=1, n_heads=2, cap_feat_dim=16, injection_layer_ids=(1, 2),
        perceiver_num_layers=1, min_num_gist_tokens=2, max_num_gist_tokens=6, gist_step=2, gist_min_text_len=2,
        gist_max_text_len=10, axes_dims=(8, 12, 12), axes_lens=(64, 16, 16),
    )  # fmt: skip


def fibo2_inputs(ragged: bool = False, reference: bool = False) -> dict[str, Any]:
    """Text embeddings are (batch, bundles, tokens, width); prompts of other lengths have other numbers of gists."""
    seen = torch.ones(BATCH, TEXT, dtype=torch.bool)
    seen[0, 2:] = not ragged
    inputs = given(latents(), 0.25, encoder_attention_mask=seen)
    inputs["encoder_hidden_states"] = randn(BATCH, 3, TEXT, 16)
    return inputs | ({"context_latents": [randn(BATCH, 4, 4, 6)]} if reference else {})


def fibo2_word(inputs: dict[str, Any]) -> None:
    inputs["encoder_hidden_states"][:, 1, 3] += 1 + randn(BATCH, 16)


def motif(cross: bool = False, image: bool = False, decoder: int = 0) -> Any:
    return diffusers.MotifVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_single_layers=1 + decoder, num_decoder_layers=decoder, patch_size=2, patch_size_t=1, text_embed_dim=16,
        image_embed_dim=6 if image else None, rope_axes_dim=(4, 4, 4), enable_text_cross_attention_dual=cross,
        enable_text_cross_attention_single=cross,
    )  # fmt: skip


def motif_inputs(**more: Any) -> dict[str, Any]:
    return given(video_latents(), 250.0, encoder_attention_mask=mask(), **more)


def joyimage_plus() -> Any:
    return diffusers.JoyImageEditPlusTransformer3DModel(
        in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=16, num_layers=2, rope_dim_list=[4, 6, 6]
    )


def joyimage_plus_inputs() -> dict[str, Any]:
    """Patches of the image, of a reference of 2 x 3, and of padding."""
    shapes = [[(1, ROWS, COLS), (1, 2, 3)]] * BATCH
    patches = randn(BATCH, IMAGE + 6 + 2, 4, 1, 2, 2)
    return given(patches, 250.0, encoder_hidden_states_mask=mask(), shape_list=shapes)


def consisid() -> Any:
    return diffusers.ConsisIDTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=4, text_embed_dim=16,
        num_layers=2, sample_width=COLS * 2, sample_height=ROWS * 2, sample_frames=5, max_text_seq_length=TEXT,
        cross_attn_interval=1, is_train_face=True, cross_attn_dim_head=4, cross_attn_num_heads=1, LFE_id_dim=2,
        LFE_vit_dim=2, LFE_depth=5, LFE_dim_head=8, LFE_num_heads=2, LFE_num_id_token=1, LFE_num_querie=1,
        LFE_output_dim=10, LFE_ff_mult=1, LFE_num_scale=1,
    )  # fmt: skip


def consisid_inputs() -> dict[str, Any]:
    face = {"id_vit_hidden": [torch.ones(BATCH, 2, 2)], "id_cond": torch.ones(BATCH, 2)}
    return given(video_latents().transpose(1, 2), 250.0, **face)


REFINER = zero(r"refiner.*(to_out|ff)|mode_blocks.*(to_out|ff)")
VIDEO_PIXEL = {"pixels": change_pixel(1, 4, 3), "grid": GRID, "patch": PATCH}
GLYPHS = {"text": TEXT + 3, "word": 3 + 3, "still": REFINER}
PACKED = (ROWS + 2) * COLS + 1


def image(name: str, make: Any, inputs: Any, pixels: Any, words: Any = None, **more: Any) -> Case:
    return Case(name, make, inputs, words or change_word(), pixels, **more)


def behind_words(name: str, make: Any, inputs: Any, **more: Any) -> Case:
    return Case(name, make, inputs, pixels=change_packed(TEXT + 2 * COLS + 1), words=change_word(), **more)


QWEN21 = {"pixels": change_packed(2 * 6 + 1), "grid": (4, 6)}
CASES = [
    image("flux3", flux3, flux3_inputs, change_packed(), still=REFINER),
    image("flux3-reference", flux3, lambda: flux3_inputs(True), change_packed(), references=((2, 3),), still=REFINER),
    image("hunyuan-image", hunyuan_image, hunyuan_image_inputs, change_pixel(2, 1), **GLYPHS),
    image(
        "hunyuan-image-refiner",
        lambda: hunyuan_image(patch_size=(1, 1, 1), text_embed_2_dim=None, rope_axes_dim=(2, 2, 4)),
        lambda: hunyuan_image_inputs(glyphs=False, refiner=True),
        change_pixel(1, 2, 1),
        grid=GRID,
        patch=PATCH,
        still=REFINER,
    ),
    behind_words("ideogram4", ideogram4, ideogram4_inputs),
    image("omnigen", omnigen, omnigen_inputs, change_pixel(4, 3), other_word(3), extra=1),
    image(
        "omnigen-reference",
        omnigen,
        lambda: omnigen_inputs(6),
        change_pixel(4, 3),
        other_word(9),
        extra=1,
        references=(6,),
    ),
    image(
        "minimax-h3",
        minimax_h3,
        minimax_h3_inputs,
        change_packed(PACKED),
        grid=GRID,
        patch=PATCH,
        extra=4,
        still=REFINER,
    ),
    image(
        "minimax-h3-frames",
        minimax_h3,
        lambda: minimax_h3_inputs(1),
        change_packed(IMAGE + PACKED),
        grid=GRID,
        patch=PATCH,
        extra=4,
        references=((ROWS, COLS),),
        still=REFINER,
    ),
    image("cosmos3", cosmos3, cosmos3_inputs, cosmos3_pixel(1), other_word(3), grid=GRID, patch=PATCH, batch=1),
    image(
        "cosmos3-frames",
        cosmos3,
        lambda: cosmos3_inputs(1),
        cosmos3_pixel(2),
        other_word(3),
        grid=GRID,
        patch=PATCH,
        references=((ROWS, COLS),),
        batch=1,
    ),
    Case("qwen21", qwen21, qwen21_inputs, change_word(), **QWEN21),
    Case(
        "qwen21-reference",
        qwen21,
        lambda: qwen21_inputs(True),
        change_word(word=7),
        change_packed(16 + 2 * 6 + 1),
        (4, 6),
        references=((4, 4),),
    ),
    *[
        image(f"bria-fibo-2{name}", fibo2, inputs, change_pixel(4, 3), fibo2_word, still=zero(STILL))
        for STILL in [r"noise_refiner.*to_out|layers.*attention\.to_out"]
        for name, inputs in {
            "": fibo2_inputs,
            "-ragged": lambda: fibo2_inputs(ragged=True),
            "-reference": lambda: fibo2_inputs(reference=True),
        }.items()
    ],
    Case("motif-video", motif, motif_inputs, change_word(), **VIDEO_PIXEL),
    Case("motif-video-cross", lambda: motif(cross=True), motif_inputs, change_word(), **VIDEO_PIXEL),
    Case(
        "motif-video-image",
        lambda: motif(image=True, decoder=1),
        lambda: motif_inputs(image_embeds=randn(BATCH, 3, 6)),
        change_word(),
        **VIDEO_PIXEL,
        references=(3,),
    ),
    image("joyimage-plus", joyimage_plus, joyimage_plus_inputs, change_packed(), extra=2, references=((2, 3),)),
    image("consisid", consisid, consisid_inputs, cogvideox_pixel(1), grid=GRID, patch=PATCH),
]
