"""More video models with plain cross-attention: LTX-2, Kandinsky 5 and 6, Cosmos, Sana-Video, SanaWM, Allegro, Latte."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..attention.folded import FramesInBatch
from ..attention.layout import TokenLayout
from ..attention.reordered import Arrangement, SomeQueries, View
from .cross_attention import pixart_text
from .family import Family, Inputs, fraction, grid_of, modules, unknown_level
from .grids import without_one_frame
from .latents import latents_then_text

_plain = latents_then_text("image-text", "cross")


def _ltx2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The video's grid is told; conditions that the pipelines add stand behind the video's tokens."""
    grid = tuple(inputs[name] for name in ("num_frames", "height", "width"))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _first_queries(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """The video's own tokens are the first of the queries."""
    return SomeQueries(0, layout.image, layout.text)


def _kandinsky_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Latents are (batch, frames, rows, cols, channels); a clean first frame may be added as a further, last one."""
    frames, rows, cols = grid_of(inputs["hidden_states"].shape[1:4], transformer.config.patch_size)
    kinds = inputs.get("visual_token_type_ids")
    frames -= 0 if kinds is None else int((kinds[0] > 0).sum())
    return TokenLayout(without_one_frame((frames, rows, cols)), inputs["encoder_hidden_states"].shape[1], scope="cross")


_TILE = 8
"""Side of the tiles in which Kandinsky 5 orders a long video's tokens for sparse attention."""


def _kandinsky5_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View | None:
    sparse = inputs.get("sparse_params")
    if sparse is None or not sparse["to_fractal"]:
        return None
    tokens = torch.arange(layout.image).reshape(-1, *layout.grid[-2:])
    tiles = rearrange(tokens, "frame (row a) (col b) -> (frame row col a b)", a=_TILE, b=_TILE)
    batch = len(inputs["hidden_states"])
    place = tiles.argsort().expand(batch, -1)
    return Arrangement(place, torch.arange(layout.text).expand(batch, -1), (layout.image, layout.text))


def _cosmos_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The text, or (text, image features), on which a second attention runs."""
    text = inputs["encoder_hidden_states"]
    text = text[0] if isinstance(text, tuple) else text
    grid = grid_of(inputs["hidden_states"].shape[-3:], transformer.config.patch_size)
    return TokenLayout(without_one_frame(grid), text.shape[1], scope="cross")


def _cosmos_levels(transformer: Any, timestep: Tensor) -> Tensor:
    """Known where each frame has its level, (batch, 1, frames, 1, 1); else it may be Cosmos 1's 0.25 ln sigma, or a fraction."""
    return fraction(transformer, timestep) if timestep.ndim == 5 else unknown_level(transformer, timestep)


def _sana_wm_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-3:], transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[-2], scope="cross")


def _allegro_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    patch = transformer.config.patch_size
    grid = grid_of(inputs["hidden_states"].shape[-3:], (transformer.config.patch_size_t, patch, patch))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _latte_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    patch = transformer.config.patch_size
    grid = grid_of(inputs["hidden_states"].shape[-3:], (1, patch, patch))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _frames_in_batch(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    return FramesInBatch(layout.grid[0], len(inputs["encoder_hidden_states"]))


CROSS_VIDEO = (
    Family(
        name="ltx-2",
        transformer="LTX2VideoTransformer3DModel",
        models="LTX-2, LTX-2.3",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),  # the others are audio's, or of audio and video
        layout=_ltx2_layout,
        token_order=_first_queries,
    ),
    Family(
        name="kandinsky5",
        transformer="Kandinsky5Transformer3DModel",
        models="Kandinsky 5",
        frames=True,
        layers=modules("cross_attention", "visual_transformer_blocks"),
        layout=_kandinsky_layout,
        token_order=_kandinsky5_order,
    ),
    Family(
        name="kandinsky6",
        transformer="Kandinsky6Transformer3DModel",
        models="Kandinsky 6",
        frames=True,
        layers=modules("video_dec_block.cross_attention", "visual_transformer_blocks"),
        layout=_kandinsky_layout,
        token_order=_first_queries,
    ),
    Family(
        name="cosmos",
        transformer="CosmosTransformer3DModel",
        models="Cosmos Predict 1, 2, 2.5",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),
        layout=_cosmos_layout,
        sigmas=_cosmos_levels,
    ),
    Family(
        name="sana-video",
        transformer="SanaVideoTransformer3DModel",
        models="Sana-Video",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),  # attn1 is linear attention, without a softmax
        layout=_plain,
    ),
    Family(
        name="sana-wm",
        transformer="SanaWMTransformer3DModel",
        models="SanaWM",
        frames=True,
        layers=modules("cross_attn", "blocks"),
        layout=_sana_wm_layout,
    ),
    Family(
        name="allegro",
        transformer="AllegroTransformer3DModel",
        models="Allegro",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),
        layout=_allegro_layout,
        text_parts=pixart_text,
    ),
    Family(
        name="latte",
        transformer="LatteTransformer3DModel",
        models="Latte",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),  # the temporal blocks see no text
        layout=_latte_layout,
        token_order=_frames_in_batch,
    ),
)
