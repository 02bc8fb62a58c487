"""Video models: latents with frames in, grids of (frames, rows, cols)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.layout import REFERENCE, Extra, TokenLayout
from ..attention.reordered import Arrangement
from .family import CALL_DEFAULT, PLAIN, Family, Inputs, TextPart, grid_of, modules, t5
from .pipeline import FamilyPipeline, call_default, from_module
from .tokenizers import Bytes


def _grid(transformer: Any, inputs: Inputs) -> tuple[int, ...]:
    """From latents (batch, channels, frames, rows, cols)."""
    patch, patch_t = transformer.config.patch_size, transformer.config.get("patch_size_t", 1)
    return grid_of(inputs["hidden_states"].shape[-3:], (patch_t, patch, patch))


def _text_last_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    return TokenLayout(_grid(transformer, inputs), inputs["encoder_hidden_states"].shape[1], "image-text")


def _hunyuan_text(
    pipe: FamilyPipeline, max_sequence_length: int, prompt_template: Any = CALL_DEFAULT
) -> list[TextPart]:
    """Llama with a chat template; no parts for templates with an image, or without the length of their cut-off beginning."""
    template = (
        call_default(pipe, "prompt_template", "encode_prompt") if prompt_template is CALL_DEFAULT else prompt_template
    )
    if set(template) != {"template", "crop_start"}:
        return []
    return [TextPart("llama", pipe.tokenizer, max_sequence_length, template["template"], cut=template["crop_start"])]


def _hunyuan15_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """ByT5 of the quoted texts, Qwen of the whole prompt in a chat; then masked positions in place of an image."""
    quoted = from_module(pipe, "extract_glyph_texts")
    said = [("system", pipe.system_message), ("user", PLAIN)]
    chat = [{"role": role, "content": text} for role, text in said]
    template = pipe.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    glyphs, length = Bytes(pipe.tokenizer_2), pipe.tokenizer_max_length
    image = [] if hasattr(pipe, "image_encoder") else [TextPart("siglip", None, pipe.vision_num_semantic_tokens)]
    return [
        TextPart("byt5", glyphs, pipe.tokenizer_2_max_length, padding_last=True, cleaned=lambda text: quoted(text) or ""),
        TextPart(
            "qwen", pipe.tokenizer, length, template, special_tokens=False, cut=pipe.prompt_template_encode_start_idx,
            cleaned=lambda text: text or " ",
        ),
        *image,
    ]  # fmt: skip


def _hunyuan15_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The text is ByT5's valid tokens, the language model's, then all masked ones; an image to animate precedes it."""
    text = inputs["encoder_hidden_states"].shape[1] + inputs["encoder_hidden_states_2"].shape[1]
    image = inputs["image_embeds"]
    if not bool(image.any()):  # text to video: the image's positions are masked and stand at the end
        return TokenLayout(_grid(transformer, inputs), text + image.shape[1], "image-text")
    extras = (Extra(REFERENCE, image.shape[1], "between"),)
    return TokenLayout(_grid(transformer, inputs), text, "image-text", extras)


def _framepack_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Past frames (the older, the coarser), then the generated frames, the image, the text."""
    history = sum(
        math.prod(math.ceil(size / step) for size, step in zip(inputs[latents].shape[-3:], steps, strict=True))
        for latents, indices, steps in (
            ("latents_clean", "indices_latents_clean", (1, 2, 2)),
            ("latents_history_2x", "indices_latents_history_2x", (2, 4, 4)),
            ("latents_history_4x", "indices_latents_history_4x", (4, 8, 8)),
        )
        if inputs.get(latents) is not None and inputs.get(indices) is not None
    )
    mask = inputs["encoder_attention_mask"]
    text = mask.shape[1] if len(mask) > 1 else int(mask.sum())  # the padding of a single sample is left out
    extras = Extra("history", history, "first"), Extra(REFERENCE, inputs["image_embeds"].shape[1], "between")
    return TokenLayout(_grid(transformer, inputs), text, "image-text", extras)


def _cogvideox_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    frames, _, rows, cols = inputs["hidden_states"].shape[-4:]
    patch, patch_t = transformer.config.patch_size, transformer.config.get("patch_size_t") or 1
    grid = grid_of((frames + -frames % patch_t, rows, cols), (patch_t, patch, patch))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image")


def _motif_layers(transformer: Any) -> list[nn.Module]:
    """Without the decoder's blocks, whose attention has no text."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    return [block.attn for block in blocks[: len(blocks) - transformer.config.num_decoder_layers]]


def _motif_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The video, a given image's features, the text."""
    patch, image = transformer.config.patch_size, inputs.get("image_embeds")
    grid = grid_of(inputs["hidden_states"].shape[-3:], (transformer.config.patch_size_t, patch, patch))
    extras = () if image is None else (Extra(REFERENCE, image.shape[1], "between"),)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "image-text", extras)


def _easyanimate_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat template, padded on the right; its length can't be set in the pipeline's call."""
    length = max_sequence_length or call_default(pipe, "max_sequence_length", "encode_prompt")
    chat = [{"role": "user", "content": [{"type": "text", "text": PLAIN}]}]
    template = pipe.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return [TextPart("qwen", pipe.tokenizer, length, template, left_aligned=True)]


def _easyanimate_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    encoders = (inputs.get(name) for name in ("encoder_hidden_states", "encoder_hidden_states_t5"))
    text = sum(embeddings.shape[1] for embeddings in encoders if embeddings is not None)
    return TokenLayout(_grid(transformer, inputs), text, "text-image")


def _mochi_source(transformer: Any, inputs: Inputs, layout: TokenLayout) -> Arrangement:
    """One attention call for each sample: its video, then its words without padding."""
    mask = inputs["encoder_attention_mask"].bool()
    words = (mask.cumsum(1) - 1 + layout.image).masked_fill(~mask, -1)
    image = torch.arange(layout.image, device=mask.device).expand(len(mask), -1)
    return Arrangement(torch.cat([image, words], 1))


def _thousandths_reversed(transformer: Any, timestep: Tensor) -> Tensor:
    """Mochi's timesteps run from 0 (noise) to 1000 (image)."""
    return 1 - timestep.float() / 1000


VIDEO = (
    Family(
        name="hunyuan-video",
        transformer="HunyuanVideoTransformer3DModel",
        models="HunyuanVideo",
        frames=True,
        layers=modules("attn", "transformer_blocks", "single_transformer_blocks"),
        layout=_text_last_layout,
        text_parts=_hunyuan_text,
    ),
    Family(
        name="cogvideox",
        transformer="CogVideoXTransformer3DModel",
        models="CogVideoX",
        frames=True,
        layers=modules("attn1", "transformer_blocks"),
        layout=_cogvideox_layout,
        text_parts=t5,
    ),
    Family(
        name="consisid",
        transformer="ConsisIDTransformer3DModel",
        models="ConsisID",
        frames=True,
        layers=modules("attn1", "transformer_blocks"),  # the face is asked for in attention layers of its own
        layout=_cogvideox_layout,
        text_parts=t5,
    ),
    Family(
        name="motif-video",
        transformer="MotifVideoTransformer3DModel",
        models="Motif-Video",
        frames=True,
        references=True,
        layers=_motif_layers,
        layout=_motif_layout,
        text_parts=t5,
    ),
    Family(
        name="hunyuan-video-1.5",
        transformer="HunyuanVideo15Transformer3DModel",
        models="HunyuanVideo 1.5",
        frames=True,
        references=True,
        layers=modules("attn", "transformer_blocks"),
        layout=_hunyuan15_layout,
        text_parts=_hunyuan15_text,
    ),
    Family(
        name="framepack",
        transformer="HunyuanVideoFramepackTransformer3DModel",
        models="HunyuanVideo FramePack",
        frames=True,
        references=True,
        layers=modules("attn", "transformer_blocks", "single_transformer_blocks"),
        layout=_framepack_layout,
        text_parts=_hunyuan_text,
    ),
    Family(
        name="easyanimate",
        transformer="EasyAnimateTransformer3DModel",
        models="EasyAnimate",
        frames=True,
        layers=modules("attn1", "transformer_blocks"),
        layout=_easyanimate_layout,
        text_parts=_easyanimate_text,
    ),
    Family(
        name="mochi",
        transformer="MochiTransformer3DModel",
        models="Mochi 1",
        frames=True,
        layers=modules("attn1", "transformer_blocks"),
        layout=_text_last_layout,
        sigmas=_thousandths_reversed,
        text_parts=t5,
        token_order=_mochi_source,
    ),
)
