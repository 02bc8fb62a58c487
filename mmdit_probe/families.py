"""The families of transformers: the only file that knows diffusers' class and attribute names.

A new model is one entry of `FAMILIES`: which modules are its attention layers, how its tokens lie, and
what its timestep argument means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .layout import TokenLayout

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class TextPart:
    """A run of text positions made by one text encoder; no tokenizer means that the encoder is not loaded
    and its positions are zero."""

    encoder: str
    tokenizer: Any
    length: int


@dataclass(frozen=True)
class Family:
    """How one transformer class is probed.

    ``layers`` gives the joint-attention modules in the order in which they run; ``layout`` reads the
    token layout from the forward pass's arguments by name; ``sigmas`` gives each batch row's noise
    level in [0, 1] from the timestep argument; ``text_parts`` lists the text positions that a pipeline
    makes, given ``max_sequence_length``; ``expert`` is the published expert layer.
    """

    name: str
    transformer: str
    models: str
    layers: Callable[[Any], list[nn.Module]]
    layout: Callable[[Any, Inputs], TokenLayout]
    sigmas: Callable[[Tensor], Tensor]
    text_parts: Callable[[Any, int], list[TextPart]]
    expert: int | None = None


def _sd3_layers(transformer: Any) -> list[nn.Module]:
    return [block.attn for block in transformer.transformer_blocks]  # attn2 of SD3.5 sees the image alone


def _sd3_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    patch = transformer.config.patch_size
    rows, cols = (size // patch for size in inputs["hidden_states"].shape[-2:])
    return TokenLayout((rows, cols), inputs["encoder_hidden_states"].shape[1], "image-text")


def _sd3_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    # the two CLIP encoders stand side by side in the same positions, T5 behind them
    return [
        TextPart("clip", pipe.tokenizer, pipe.tokenizer_max_length),
        TextPart("t5", pipe.tokenizer_3 if pipe.text_encoder_3 is not None else None, max_sequence_length),
    ]


FAMILIES: tuple[Family, ...] = (
    Family(
        name="sd3",
        transformer="SD3Transformer2DModel",
        models="Stable Diffusion 3, 3.5",
        layers=_sd3_layers,
        layout=_sd3_layout,
        sigmas=lambda timestep: timestep.float() / 1000,
        text_parts=_sd3_text,
        expert=9,
    ),
)


def family_of(transformer: nn.Module) -> Family:
    """The family of a transformer; `ValueError` names the supported classes."""
    classes = {base.__name__ for base in type(transformer).__mro__}
    for family in FAMILIES:
        if family.transformer in classes:
            return family
    known = ", ".join(family.transformer for family in FAMILIES)
    raise ValueError(f"Probe: {type(transformer).__name__} is not a supported transformer; supported: {known}")


def named_inputs(transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """A forward call's arguments by name."""
    signature = inspect.signature(type(transformer).forward)
    return signature.bind_partial(transformer, *args, **kwargs).arguments
