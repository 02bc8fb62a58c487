"""More video models with plain cross-attention: LTX-2, Kandinsky 5 and 6, Cosmos, Sana-Video, SanaWM, Allegro, Latte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..attention.folded import FramesInBatch
from ..attention.layout import TokenLayout
from ..attention.reordered import Arrangement, SomeQueries, View
from .cross_attention import after_instruction, cleaner, pixart_text, sana_text
from .family import (
    CALL_DEFAULT,
    PLAIN,
    Family,
    Inputs,
    TextPart,
    first_of,
    fraction,
    grid_of,
    longest_of,
    modules,
    t5,
    unknown_level,
)
from .grids import without_one_frame
from .latents import latents_then_text
from .pipeline import FamilyPipeline, call_default, from_module
from .tokenizers import Front

_plain = latents_then_text("image-text", "cross")


def _ltx2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The video's grid is told; conditions that the pipelines add stand behind the video's tokens."""
    grid = tuple(inputs[name] for name in ("num_frames", "height", "width"))
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _ltx2_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Gemma. The connectors between it and the transformer move the tokens to the front, let them see each other, and put learned
    registers in the padding's place, which are attended to.
    """
    moved = pipe.connectors.config.video_connector_num_learnable_registers is not None
    used = pipe.tokenizer if moved else Front(pipe.tokenizer)
    return [TextPart("gemma", used, max_sequence_length, cleaned=str.strip, left_aligned=moved)]


def _first_queries(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """The video's own tokens are the first of the queries."""
    return SomeQueries(0, layout.image, layout.text)


def _kandinsky_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Latents are (batch, frames, rows, cols, channels); a clean first frame may be added as a further, last one."""
    frames, rows, cols = grid_of(inputs["hidden_states"].shape[1:4], transformer.config.patch_size)
    kinds = inputs.get("visual_token_type_ids")
    frames -= 0 if kinds is None else int((kinds[0] > 0).sum())
    return TokenLayout(without_one_frame((frames, rows, cols)), inputs["encoder_hidden_states"].shape[1], scope="cross")


def _kandinsky5_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat, padded to the longest prompt and not masked; CLIP enters pooled, without tokens."""
    part = TextPart(
        "qwen", pipe.tokenizer.tokenizer, max_sequence_length, pipe.prompt_template, multiple=1,
        cut=pipe.prompt_template_encode_start_idx, cleaned=from_module(pipe, "prompt_clean") or str,
    )  # fmt: skip
    return [part]


def _kandinsky6_text(
    pipe: FamilyPipeline, max_sequence_length: int, negative_prompt: str | Sequence[str] | None = None
) -> list[TextPart]:
    """Qwen with a chat; CLIP enters pooled. Without a negative prompt the pipeline has one of its own."""
    template, dropped = (from_module(pipe, name) for name in ("_PROMPT_TEMPLATE", "_QWEN_CROP_START"))
    part = TextPart("qwen", pipe.tokenizer.tokenizer, max_sequence_length, template, cut=dropped)
    return [part if negative_prompt else _negative_always(part, pipe._DEFAULT_NEGATIVE_PROMPT)]


def _negative_always(part: TextPart, text: str) -> TextPart:
    """The part of a pipeline that was given no negative prompt and takes this one."""
    return replace(part, negative=replace(part, cleaned=lambda prompt: text))


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


_COSMOS_SYSTEM = "You are a helpful assistant who will provide prompts to an image generator."
"""What Cosmos 2.5 tells its text encoder before the prompt."""


def _cosmos_text(
    pipe: FamilyPipeline, max_sequence_length: int, negative_prompt: str | Sequence[str] | None = None
) -> list[TextPart]:
    """T5, or, in Cosmos 2.5, Qwen with a chat whose padding is not masked. Without a negative prompt the pipelines have one."""
    if hasattr(pipe, "_get_t5_prompt_embeds"):
        [part] = t5(pipe, max_sequence_length)
    else:
        said = [("system", _COSMOS_SYSTEM), ("user", PLAIN)]
        chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
        template = pipe.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=False, add_vision_id=False
        )
        part = TextPart("qwen", pipe.tokenizer, max_sequence_length, template, special_tokens=False)
    own = from_module(pipe, "DEFAULT_NEGATIVE_PROMPT")
    return [part if negative_prompt is not None or own is None else _negative_always(part, own)]


def _cosmos_levels(transformer: Any, timestep: Tensor) -> Tensor:
    """Known where each frame has its level, (batch, 1, frames, 1, 1); else it may be Cosmos 1's 0.25 ln sigma, or a fraction."""
    return fraction(transformer, timestep) if timestep.ndim == 5 else unknown_level(transformer, timestep)


def _sana_wm_text(
    pipe: FamilyPipeline, max_sequence_length: int, chi_prompt: Sequence[str] | None = None
) -> list[TextPart]:
    """Gemma; an instruction precedes the prompt, but not the negative prompt; all but its first token are cut off."""
    plain = TextPart("gemma", pipe.tokenizer, max_sequence_length)
    lines = chi_prompt or from_module(pipe, "DEFAULT_CHI_PROMPT")
    return [after_instruction(pipe, plain, lines)]


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


_LATTE_LENGTH = 120
"""Text positions of Latte's encoder, whatever the pipeline's call is told."""


def _latte_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    prompt: str | Sequence[str] | None = None,
    num_images_per_prompt: int = 1,
    clean_caption: Any = CALL_DEFAULT,
    mask_feature: Any = CALL_DEFAULT,
) -> list[TextPart]:
    """T5. One prompt for one video has its padding cut off, and its negative prompt is cut to the prompt's length."""
    [part] = [replace(part, cleaned=cleaner(pipe, clean_caption)) for part in t5(pipe, _LATTE_LENGTH)]
    cuts = call_default(pipe, "mask_feature") if mask_feature is CALL_DEFAULT else mask_feature
    alone = isinstance(prompt, str) or (prompt is not None and len(prompt) == 1)
    if not (cuts and alone and num_images_per_prompt == 1):
        return [part]
    return [replace(part, negative=first_of(part, longest_of(part, prompt or "")))]


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
        text_parts=_ltx2_text,
        token_order=_first_queries,
    ),
    Family(
        name="kandinsky5",
        transformer="Kandinsky5Transformer3DModel",
        models="Kandinsky 5",
        frames=True,
        layers=modules("cross_attention", "visual_transformer_blocks"),
        layout=_kandinsky_layout,
        text_parts=_kandinsky5_text,
        token_order=_kandinsky5_order,
    ),
    Family(
        name="kandinsky6",
        transformer="Kandinsky6Transformer3DModel",
        models="Kandinsky 6",
        frames=True,
        layers=modules("video_dec_block.cross_attention", "visual_transformer_blocks"),
        layout=_kandinsky_layout,
        text_parts=_kandinsky6_text,
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
        text_parts=_cosmos_text,
    ),
    Family(
        name="sana-video",
        transformer="SanaVideoTransformer3DModel",
        models="Sana-Video",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),  # attn1 is linear attention, without a softmax
        layout=_plain,
        text_parts=sana_text,
    ),
    Family(
        name="sana-wm",
        transformer="SanaWMTransformer3DModel",
        models="SanaWM",
        frames=True,
        layers=modules("cross_attn", "blocks"),
        layout=_sana_wm_layout,
        text_parts=_sana_wm_text,
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
        text_parts=_latte_text,
        token_order=_frames_in_batch,
    ),
)
