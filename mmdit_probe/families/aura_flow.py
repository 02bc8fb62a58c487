"""AuraFlow: register tokens, then text, then the image."""

from __future__ import annotations

from typing import Any

from ..layout import Extra, TokenLayout
from .family import Family, Inputs, fraction, grid_of, modules, t5


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    registers = Extra("register", transformer.register_tokens.shape[1], "first")
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image", (registers,))


AURA_FLOW = Family(
    name="auraflow",
    transformer="AuraFlowTransformer2DModel",
    models="AuraFlow",
    layers=modules("attn", "joint_transformer_blocks", "single_transformer_blocks"),
    layout=_layout,
    sigmas=fraction,
    text_parts=t5,
)
