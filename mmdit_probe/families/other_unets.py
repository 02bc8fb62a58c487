"""U-Nets beside Stable Diffusion's: DreamLite, with a second image; ModelScope's videos; Kandinsky 3; Stable Cascade."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..attention.folded import FramesInBatch
from ..attention.kernels import AttentionCall
from ..attention.layout import Extra, TokenLayout
from ..attention.reordered import Arrangement, View
from .family import PLAIN, Family, Inputs, TextPart, first_of, fraction, grid_of, longest_of, t5
from .pipeline import FamilyPipeline, call_default
from .unet import UNET, unet_level


def _dreamlite_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    """The pipeline puts a second image, or zeros, to the right of the one that is made."""
    rows, cols = inputs["sample"].shape[-2:]
    if cols % 2:
        raise ValueError(f"Probe: DreamLite's latents are two images side by side, of one width; these are {cols} wide")
    return TokenLayout((rows, cols // 2), inputs["encoder_hidden_states"].shape[1], scope="cross")


@dataclass(frozen=True)
class _LeftHalf:
    """The view of calls whose queries are two images side by side, at one of a U-Net's levels."""

    layout: TokenLayout

    def batch(self, call: AttentionCall) -> int:
        return call.batch

    def rows(self, some: slice) -> _LeftHalf:
        return self

    def of(self, call: AttentionCall) -> AttentionCall | None:
        queries, keys = call.query.shape[2], call.key.shape[2]
        both = replace(self.layout, grid=(self.layout.grid[0], 2 * self.layout.grid[1]))
        level = unet_level(both, queries, keys)
        if level is None or level.grid[1] % 2:
            return None
        left = torch.arange(queries).reshape(level.grid)[:, : level.grid[1] // 2].flatten()
        every = torch.arange(keys).expand(call.batch, -1)
        return Arrangement(left.expand(call.batch, -1), every, (queries, keys)).of(call)


def _dreamlite_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen of a chat whose system's turn is cut off; the prompt begins with the task, the negative prompt does not."""
    length = max_sequence_length or call_default(pipe, "max_sequence_length")
    template, dropped = pipe.prompt_template_encode_generate, pipe.prompt_template_encode_generate_start_idx
    negative = TextPart("qwen", pipe.tokenizer, length, template, left_aligned=True, cut=dropped, multiple=1)
    return [replace(negative, template=template.replace(PLAIN, f"[Generate]: {PLAIN}"), negative=negative)]


def _dreamlite_filled(pipe: FamilyPipeline, arguments: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The negative prompt, with an image once more, and the prompt; of the distilled model the prompt alone."""
    own = [("conditional", [arguments["prompt"]])]
    if "negative_prompt" not in inspect.signature(type(pipe).__call__).parameters:
        return own
    times = 1 if arguments.get("image") is None else 2
    return [("unconditional", [arguments.get("negative_prompt") or ""] * times), *own]


def _dreamlite_view(unet: Any, inputs: Inputs, layout: TokenLayout) -> View:
    return _LeftHalf(layout)


def _video_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    return TokenLayout(tuple(inputs["sample"].shape[-3:]), inputs["encoder_hidden_states"].shape[1], scope="cross")


def _video_level(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """Levels halve rows and columns; frames stay."""
    frames, *image = layout.grid
    level = unet_level(replace(layout, grid=tuple(image)), queries // frames, keys) if queries % frames == 0 else None
    return None if level is None else replace(level, grid=(frames, *level.grid))


def _video_view(unet: Any, inputs: Inputs, layout: TokenLayout) -> View:
    return FramesInBatch(layout.grid[0], len(inputs["sample"]))


def _kandinsky3_layers(unet: Any) -> list[nn.Module]:
    """The first attention of a block is its self-attention, the others ask for words."""
    blocks = [*unet.down_blocks, *unet.up_blocks]
    asking = [part for block in blocks if block.context_dim is not None for part in block.attentions[1:]]
    return [part.attention for part in asking]


_KANDINSKY3_LENGTH = 128
"""Text positions of Kandinsky 3's encoder, whatever the pipeline's call is told."""


def _kandinsky3_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    prompt: str | Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    _cut_context: bool = False,
) -> list[TextPart]:
    """T5, cut one position behind the longest prompt; without a negative prompt its embeddings are zero."""
    [part] = t5(pipe, _KANDINSKY3_LENGTH)
    kept = part.length if not (prompt and _cut_context) else min(longest_of(part, prompt) + 1, part.length)
    absent = TextPart("t5", None, kept)
    return [replace(part, negative=absent if negative_prompt is None else first_of(part, kept))]


def _cascade_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """CLIP; the pooled text and an image's features stand behind its positions."""
    return [TextPart("clip", pipe.tokenizer, pipe.tokenizer.model_max_length)]


def _cascade_layers(unet: Any) -> list[nn.Module]:
    """In the order in which they run; a level is repeated as its mappers say."""
    parts = [part for stage in (unet.down_blocks, unet.up_blocks) for level in stage for part in level]
    return [part.attention for part in parts if hasattr(part, "kv_mapper")]


def _cascade_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    """Keys are the image, the words, the pooled text, an image's features."""
    words = inputs.get("clip_text")
    if words is None or inputs.get("clip_img") is None or not unet.config.self_attn:
        raise ValueError("Probe: Stable Cascade's decoder sees the pooled text alone, without words; probe its prior")
    patch, pooled = unet.config.patch_size, inputs["clip_text_pooled"]
    features = (pooled.shape[1] if pooled.ndim == 3 else 1, inputs["clip_img"].shape[1])
    extras = (Extra("pooled", sum(features) * unet.config.clip_seq, "last"),)
    grid = grid_of(inputs["sample"].shape[-2:], patch)
    return TokenLayout(grid, words.shape[1], "image-text", extras, "image-queries")


OTHER_UNETS = (
    replace(
        UNET,
        name="dreamlite",
        transformer="DreamLiteUNetModel",
        models="DreamLite",
        layout=_dreamlite_layout,
        text_parts=_dreamlite_text,
        filled=_dreamlite_filled,
        batches=False,
        token_order=_dreamlite_view,
    ),
    replace(
        UNET,
        name="unet-3d",
        transformer="UNet3DConditionModel",
        models="ModelScope text to video",
        frames=True,
        layout=_video_layout,
        call_layout=_video_level,
        token_order=_video_view,
    ),
    replace(
        UNET,
        name="animatediff",
        transformer="UNetMotionModel",
        models="AnimateDiff",
        frames=True,
        layout=_video_layout,
        call_layout=_video_level,
        token_order=_video_view,
    ),
    replace(
        UNET,
        name="kandinsky3",
        transformer="Kandinsky3UNet",
        models="Kandinsky 3",
        layers=_kandinsky3_layers,
        text_parts=_kandinsky3_text,
    ),
    Family(
        name="stable-cascade",
        transformer="StableCascadeUNet",
        models="Stable Cascade's prior",
        layers=_cascade_layers,
        layout=_cascade_layout,
        text_parts=_cascade_text,
        sigmas=fraction,
        image_argument="sample",
        timestep_argument="timestep_ratio",
        text_argument="clip_text",
        call_layout=unet_level,
    ),
)
