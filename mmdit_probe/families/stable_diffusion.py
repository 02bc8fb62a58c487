"""Stable Diffusion 3 and its kin: latents in, image before text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attention.layout import TokenLayout
from .family import Family, Inputs, TextPart, grid_of, modules
from .image_input import ImageInput
from .pipeline import FamilyPipeline


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "image-text")


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    # the two CLIP encoders stand side by side in the same positions, T5 behind them
    return [
        TextPart("clip", pipe.tokenizer, pipe.tokenizer_max_length),
        TextPart("t5", pipe.tokenizer_3 if pipe.text_encoder_3 is not None else None, max_sequence_length),
    ]


def _prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, _, pooled, _ = pipe.encode_prompt(
        list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": features, "pooled_projections": pooled}


STABLE_DIFFUSION_3 = Family(
    name="sd3",
    transformer="SD3Transformer2DModel",
    models="Stable Diffusion 3, 3.5",
    layers=modules("attn", "transformer_blocks"),  # attn2 of SD3.5 sees the image alone
    layout=_layout,
    text_parts=_text,
    expert=9,
    depth=24,  # SD3 and SD3.5 medium; SD3.5 large has 38
    image_input=ImageInput(_prompts),
)
