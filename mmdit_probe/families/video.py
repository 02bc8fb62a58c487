"""Video models: latents with frames in, grids of (frames, rows, cols)."""

from __future__ import annotations

from typing import Any

from ..layout import TokenLayout
from .family import Family, Inputs, grid_of, modules


def _hunyuan_grid(transformer: Any, inputs: Inputs) -> tuple[int, ...]:
    patch = transformer.config.patch_size
    return grid_of(inputs["hidden_states"].shape[-3:], (transformer.config.patch_size_t, patch, patch))


def _hunyuan_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    return TokenLayout(_hunyuan_grid(transformer, inputs), inputs["encoder_hidden_states"].shape[1], "image-text")


def _cogvideox_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    frames, _, rows, cols = inputs["hidden_states"].shape[-4:]
    patch, patch_t = transformer.config.patch_size, transformer.config.patch_size_t or 1
    grid = grid_of((frames + -frames % patch_t, rows, cols), (patch_t, patch, patch))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image")


VIDEO = (
    Family(
        name="hunyuan-video",
        transformer="HunyuanVideoTransformer3DModel",
        models="HunyuanVideo",
        layers=modules("attn", "transformer_blocks", "single_transformer_blocks"),
        layout=_hunyuan_layout,
    ),
    Family(
        name="cogvideox",
        transformer="CogVideoXTransformer3DModel",
        models="CogVideoX",
        layers=modules("attn1", "transformer_blocks"),
        layout=_cogvideox_layout,
    ),
)
