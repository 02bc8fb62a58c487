"""Wan and the models built on it: cross-attention to T5, whose text is padded with zeros and not masked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.reordered import SomeQueries, View
from .family import Family, Inputs, TextPart, grid_of, modules, t5
from .latents import latents_then_text
from .pipeline import FamilyPipeline, from_module

_plain = latents_then_text("image-text", "cross")


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """T5, after the pipeline has cleaned white space and HTML entities."""
    return [replace(part, cleaned=from_module(pipe, "prompt_clean") or str) for part in t5(pipe, max_sequence_length)]


def _later_frames(layout: TokenLayout, given: int) -> TokenLayout:
    """Without the first frames, which are given images."""
    frames, rows, cols = layout.grid
    return replace(layout, grid=(frames - given, rows, cols))


def _last_queries(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """The video's own tokens are the last of the queries."""
    return SomeQueries(-layout.image, layout.image, layout.text)


def _vace_references(latents: Tensor, control: Tensor) -> int:
    """Number of leading frames that are reference images: their control has no part to be made anew, which is exactly zero."""
    channels = latents.shape[1]
    made = control[:, channels : 2 * channels].abs().amax((0, 1, 3, 4)) > 0
    return int((made.cumsum(0) == 0).sum()) if bool(made.any()) else 0


def _vace_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    layout = _plain(transformer, inputs)
    return _later_frames(layout, _vace_references(inputs["hidden_states"], inputs["control_hidden_states"]))


def _animate_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The first frame is the reference image of the character."""
    return _later_frames(_plain(transformer, inputs), 1)


def _animate2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Samples are a list of (channels, frames, rows, cols); text is padded by the model; the first frame is the character's."""
    frames, rows, cols = inputs["hidden_states"][0].shape[1:]
    grid = grid_of((frames, rows, cols), transformer.config.patch_size)
    return _later_frames(TokenLayout(grid, transformer.config.text_len, scope="cross"), 1)


def _not_extracting(inputs: Inputs) -> bool:
    """Before the steps of a segment, a call with a prompt of its own fills the cache with the driving video."""
    return bool(inputs.get("kv_cache_mode") != "extract")


def _anyflow_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Latents are (batch, frames, channels, rows, cols)."""
    frames, _, rows, cols = inputs["hidden_states"].shape[1:]
    grid = grid_of((frames, rows, cols), transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _far_frames(transformer: Any, inputs: Inputs) -> tuple[int, int]:
    """Frames of early chunks, which are compressed, and frames behind them; a step with a cache has one chunk alone."""
    frames, kept = inputs["hidden_states"].shape[1], transformer.config.full_chunk_limit
    if inputs.get("kv_cache") is not None:
        if not inputs["kv_cache_flag"]["is_cache_step"]:
            return 0, frames
        kept -= 1
    chunks = inputs["chunk_partition"]
    compressed = sum(chunks[: max(len(chunks) - kept, 0)])
    return compressed, frames - compressed


def _far_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The frames that are not compressed."""
    _, frames = _far_frames(transformer, inputs)
    grid = grid_of((frames, *inputs["hidden_states"].shape[-2:]), transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _far_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """Compressed frames come first; clean ones, of which a training step is told, last."""
    early, _ = _far_frames(transformer, inputs)
    rows, cols = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.compressed_patch_size[1:])
    return SomeQueries(early * rows * cols, layout.image, layout.text)


WAN = (
    Family(
        name="wan",
        transformer="WanTransformer3DModel",
        models="Wan 2.1, and the first transformer of 2.2",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_plain,
        text_parts=_text,
    ),
    Family(
        name="wan-vace",
        transformer="WanVACETransformer3DModel",
        models="Wan VACE",
        frames=True,
        layers=modules("attn2", "blocks"),  # vace_blocks ask for words with the control video's tokens
        layout=_vace_layout,
        text_parts=_text,
        token_order=_last_queries,
    ),
    Family(
        name="wan-animate",
        transformer="WanAnimateTransformer3DModel",
        models="Wan Animate",
        frames=True,
        layers=modules("attn2", "blocks"),  # the face adapter's keys are motions, no words
        layout=_animate_layout,
        text_parts=_text,
        token_order=_last_queries,
    ),
    Family(
        name="wan-animate-2",
        transformer="WanAnimate2Transformer3DModel",
        models="Wan Animate 2",
        frames=True,
        batches=False,
        layers=modules("cross_attn", "blocks"),  # the second call of each has the keys of a CLIP image
        layout=_animate2_layout,
        text_parts=t5,  # not cleaned, unlike Wan's
        token_order=_last_queries,
        denoises=_not_extracting,
    ),
    Family(
        name="chronoedit",
        transformer="ChronoEditTransformer3DModel",
        models="ChronoEdit",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_plain,
        text_parts=_text,
    ),
    Family(
        name="skyreels-v2",
        transformer="SkyReelsV2Transformer3DModel",
        models="SkyReels V2",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_plain,
        text_parts=_text,
    ),
    Family(
        name="anyflow",
        transformer="AnyFlowTransformer3DModel",
        models="AnyFlow",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_anyflow_layout,
        text_parts=_text,
    ),
    Family(
        name="anyflow-far",
        transformer="AnyFlowFARTransformer3DModel",
        models="AnyFlow-FAR",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_far_layout,
        text_parts=_text,
        token_order=_far_order,
    ),
    Family(
        name="helios",
        transformer="HeliosTransformer3DModel",
        models="Helios",
        frames=True,
        layers=modules("attn2", "blocks"),
        layout=_plain,
        text_parts=_text,
        token_order=_last_queries,  # past frames stand before the video, and ask for words unless guidance_cross_attn is set
    ),
)
