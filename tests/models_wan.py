"""Small models of Wan and of those that are built on it."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.transformers import transformer_wan_animate_2 as wan_animate_2
from models import BATCH, COLS, FRAMES, ROWS, TEXT, Case, change_pixel, change_word, randn, zero
from models_image import given
from models_video import GRID, PATCH, cogvideox_pixel, latents
from torch.nn.attention.flex_attention import create_block_mask

SMALL = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 8, "ffn_dim": 16, "num_layers": 2, "rope_max_seq_len": 32,
}  # fmt: skip
FACE = {
    "in_channels": 12, "latent_channels": 4, "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
    "motion_encoder_size": 16, "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16,
    "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2,
}  # fmt: skip
STILL = zero("attn1.to_out|proj_out_.*|vace_blocks.*proj_out|face_adapter")


def frames(count: int, channels: int = 4) -> torch.Tensor:
    return randn(BATCH, channels, count, ROWS * 2, COLS * 2)


def vace() -> Any:
    return diffusers.WanVACETransformer3DModel(**SMALL, vace_layers=[0], vace_in_channels=12)


def vace_inputs(references: int = 0) -> dict[str, Any]:
    """Control videos are what is kept (or a reference image), what is made anew (zero beside a reference), and the mask."""
    count = FRAMES + references
    control = frames(count, 12)
    control[:, 4:, :references] = 0
    return given(frames(count), 250.0, control_hidden_states=control)


def animate(image: bool = False) -> Any:
    features = {"image_dim": 6, "added_kv_proj_dim": 24} if image else {"image_dim": None, "added_kv_proj_dim": None}
    return diffusers.WanAnimateTransformer3DModel(**{**SMALL, **FACE, **features})


def animate_inputs(image: bool = False) -> dict[str, Any]:
    """One frame of the character, then the video."""
    more = {"pose_hidden_states": frames(FRAMES), "face_pixel_values": randn(BATCH, 3, 5, 16, 16)}
    inputs = given(frames(FRAMES + 1, 12), 250.0, **more)
    if image:
        inputs |= {"encoder_hidden_states": randn(BATCH, 512, 16), "encoder_hidden_states_image": randn(BATCH, 3, 6)}
    return inputs


def eager_block_mask(model: Any, frames: int, tokens: int) -> None:
    """The mask that the model would make with a compiler: ``frames`` of ``tokens`` beside a picture, and their references."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wan_animate_2, "create_block_mask", partial(_uncompiled, create_block_mask))
        model.block_masks[frames, tokens] = model.create_mask(frames, tokens, "cpu")


def _uncompiled(make: Any, *args: Any, _compile: bool, **more: Any) -> Any:
    return make(*args, **more)


def animate_2() -> Any:
    model = diffusers.WanAnimate2Transformer3DModel(
        text_len=TEXT + 3, in_dim=10, dim=32, ffn_dim=16, freq_dim=8, text_dim=16, out_dim=4, num_heads=2, num_layers=2,
        use_img_emb=True,
    )  # fmt: skip
    eager_block_mask(model, FRAMES, ROWS * COLS)
    return model


def animate_2_inputs() -> dict[str, Any]:
    """A step with a filled cache: a picture of the character, then the video; samples are lists."""
    cache = wan_animate_2.WanAnimate2KVCache(2)
    for layer in cache.layer_caches:
        layer.store(*(randn(1, FRAMES * ROWS * COLS, 2, 16) for _ in range(2)))
    frames, sides = FRAMES + 1, (ROWS * 2, COLS * 2)
    return {
        "hidden_states": [randn(4, frames, *sides)], "condition_latents": [randn(6, frames, *sides)],
        "encoder_hidden_states": [randn(TEXT, 16)], "encoder_hidden_states_image": randn(1, 3, 1280),
        "timestep": torch.tensor([250.0]), "kv_cache": cache, "kv_cache_mode": "cached", "seq_len": frames * ROWS * COLS,
        "reference_grid_sizes": torch.tensor([[FRAMES, ROWS, COLS]]), "origin_len": 4 * (FRAMES - 1),
        "origin_area": [16 * ROWS, 16 * COLS],
    }  # fmt: skip


def change_in_list(name: str, *where: Any) -> Any:
    """Change a place of the first sample of a list."""

    def change(inputs: dict[str, Any]) -> None:
        inputs[name][0][where] += 2

    return change


def helios(guided: bool) -> Any:
    small = {name: value for name, value in SMALL.items() if name != "rope_max_seq_len"}
    return diffusers.HeliosTransformer3DModel(**small, rope_dim=(4, 4, 4), guidance_cross_attn=guided)


def helios_inputs() -> dict[str, Any]:
    ages = {"short": 1, "mid": 2, "long": 4}
    past: dict[str, Any] = {f"latents_history_{age}": frames(count) for age, count in ages.items()}
    past |= {f"indices_latents_history_{age}": torch.zeros(BATCH, count) for age, count in ages.items()}
    return given(latents(), 250.0, indices_hidden_states=torch.arange(FRAMES).float().expand(BATCH, -1), **past)


def anyflow_inputs() -> dict[str, Any]:
    times = torch.full((BATCH, FRAMES), 250.0)
    return given(latents().transpose(1, 2), 250.0, r_timestep=times - 150) | {"timestep": times}


def anyflow_far() -> Any:
    return diffusers.AnyFlowFARTransformer3DModel(**SMALL, compressed_patch_size=(1, 4, 4), full_chunk_limit=2)


def anyflow_far_inputs(compressed: int = 0, step: bool = False) -> dict[str, Any]:
    """Chunks of one frame: the earlier are compressed; or a step of one chunk, whose keys of others are in a cache."""
    frames = FRAMES + compressed
    times = torch.full((BATCH, frames), 250.0)
    rows, cols = 2 * ROWS + 2, 2 * COLS  # whole compressed patches
    inputs = given(randn(BATCH, frames, 4, rows, cols), 250.0, r_timestep=times - 150) | {"timestep": times}
    if not step:
        return inputs | {"chunk_partition": [1] * frames}
    tokens = (rows // 2) * (cols // 2)
    cache = [
        {name: torch.zeros(2, BATCH, 2, tokens, 12) for name in ("compressed_cache", "full_cache")} for _ in range(2)
    ]
    flag = {"is_cache_step": False, "num_cached_chunks": 0}
    return inputs | {"chunk_partition": [frames], "kv_cache": cache, "kv_cache_flag": flag}


def case(name: str, make: Any, inputs: Any, frame: int = 1, **more: Any) -> Case:
    return Case(name, make, inputs, change_word(), change_pixel(frame, 4, 3), GRID, PATCH, still=STILL, **more)


CASES = [
    case("wan-vace", vace, vace_inputs),
    case("wan-vace-references", vace, lambda: vace_inputs(2), frame=3),
    case("wan-animate", animate, animate_inputs, frame=2),
    case("wan-animate-image", lambda: animate(True), lambda: animate_inputs(True), frame=2, text=512),
    Case(
        "wan-animate-2", animate_2, animate_2_inputs, change_in_list("encoder_hidden_states", 3, slice(None, 3)),
        change_in_list("hidden_states", slice(None), 2, 4, 3), GRID, PATCH, still=zero("self_attn.to_out"), text=TEXT + 3,
        batch=1,
    ),
    case("chronoedit", lambda: diffusers.ChronoEditTransformer3DModel(**SMALL), lambda: given(latents(), 250.0)),
    case("skyreels-v2", lambda: diffusers.SkyReelsV2Transformer3DModel(**SMALL), lambda: given(latents(), 250.0)),
    case(
        "skyreels-v2-forcing",
        lambda: diffusers.SkyReelsV2Transformer3DModel(**SMALL),
        lambda: given(latents(), 0.0, enable_diffusion_forcing=True) | {"timestep": torch.tensor([[100.0, 250.0]] * BATCH)},
    ),
    case("helios", lambda: helios(True), helios_inputs),
    case("helios-unguided", lambda: helios(False), helios_inputs),
    Case(
        "anyflow", lambda: diffusers.AnyFlowTransformer3DModel(**SMALL), anyflow_inputs, change_word(), cogvideox_pixel(1),
        GRID, PATCH, still=STILL,
    ),
    *(
        Case(
            f"anyflow-far{name}", anyflow_far, partial(anyflow_far_inputs, **more), change_word(),
            cogvideox_pixel(1 + more.get("compressed", 0)), (FRAMES, ROWS + 1, COLS), PATCH, still=STILL,
        )
        for name, more in {"": {}, "-compressed": {"compressed": 2}, "-step": {"step": True}}.items()
    ),
]  # fmt: skip
