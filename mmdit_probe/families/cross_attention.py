"""Models with plain cross-attention: image queries on text keys, the I2T region alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..layout import TokenLayout
from .family import Family, Inputs, TextPart, modules, t5, thousandths
from .latents import latents_then_text


def _unet_layers(unet: Any) -> list[nn.Module]:
    stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    transformers = [module for stage in stages for module in getattr(stage, "attentions", None) or ()]
    blocks = [block for transformer in transformers for block in getattr(transformer, "transformer_blocks", ())]
    return [block.attn2 for block in blocks if block.attn2 is not None]


def _unet_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    rows, cols = inputs["sample"].shape[-2:]
    return TokenLayout((rows, cols), inputs["encoder_hidden_states"].shape[1], scope="cross")


def _unet_level(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """U-Net layers see the latents halved some times, rounded up."""
    rows, cols = layout.grid
    while rows * cols > max(queries, 1):
        rows, cols = (rows + 1) // 2, (cols + 1) // 2
    level = replace(layout, grid=(rows, cols))
    return level if (queries, keys) == (level.queries, level.keys) else None


def _ltx_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = inputs["num_frames"], inputs["height"], inputs["width"]
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _clip(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    tokenizer = pipe.tokenizer if pipe.tokenizer is not None else pipe.tokenizer_2  # in SDXL side by side
    return [TextPart("clip", tokenizer, tokenizer.model_max_length)]


def _sana_time(transformer: Any, timestep: Tensor) -> Tensor:
    return thousandths(transformer, timestep) / transformer.config.timestep_scale


CROSS_ATTENTION = (
    Family(
        name="unet",
        transformer="UNet2DConditionModel",
        models="Stable Diffusion 1.5, 2, XL, SSD-1B",
        layers=_unet_layers,
        layout=_unet_layout,
        text_parts=_clip,
        main="sample",
        call_layout=_unet_level,
    ),
    Family(
        name="pixart",
        transformer="PixArtTransformer2DModel",
        models="PixArt-alpha, PixArt-Sigma",
        layers=modules("attn2", "transformer_blocks"),
        layout=latents_then_text("image-text", "cross"),
    ),
    Family(
        name="sana",
        transformer="SanaTransformer2DModel",
        models="Sana",
        layers=modules("attn2", "transformer_blocks"),  # attn1 is linear: it has no softmax
        layout=latents_then_text("image-text", "cross"),
        sigmas=_sana_time,
    ),
    Family(
        name="wan",
        transformer="WanTransformer3DModel",
        models="Wan 2.1, 2.2",
        layers=modules("attn2", "blocks"),
        layout=latents_then_text("image-text", "cross"),
        text_parts=t5,
    ),
    Family(
        name="ltx-video",
        transformer="LTXVideoTransformer3DModel",
        models="LTX-Video",
        layers=modules("attn2", "transformer_blocks"),
        layout=_ltx_layout,
        text_parts=t5,
    ),
)
