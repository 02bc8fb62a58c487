"""AuraFlow: register tokens, then text, then the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attention.layout import Extra, TokenLayout
from .family import Family, Inputs, fraction, grid_of, modules, t5
from .image_input import ImageInput, same
from .pipeline import FamilyPipeline


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    registers = Extra("register", transformer.register_tokens.shape[1], "first")
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image", (registers,))


def _prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, *_ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings}


AURA_FLOW = Family(
    name="auraflow",
    transformer="AuraFlowTransformer2DModel",
    models="AuraFlow",
    layers=modules("attn", "joint_transformer_blocks", "single_transformer_blocks"),
    layout=_layout,
    sigmas=fraction,
    text_parts=t5,
    image_input=ImageInput(_prompts, time=same),
)
