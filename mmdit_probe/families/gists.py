"""Bria Fibo 2: joint attention of the image and of gists of the text; in a few layers, cross-attention to the words."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from ..attention.layout import TokenLayout
from ..attention.reordered import SomeQueries, View
from .family import Family, Inputs, TextPart, fraction, grid_of
from .pipeline import FamilyPipeline


def _layers(transformer: Any) -> list[nn.Module]:
    """The cross-attention of the few blocks that have one: there alone are words to attend to."""
    return [block.cross_attention for block in transformer.layers if block.cross_attention is not None]


def _text(pipe: FamilyPipeline, max_sequence_length: int, text_images: Any = None) -> list[TextPart]:
    """Qwen with a chat of the prompt, padded to the longest; no parts if images of the prompt's text stand among the words."""
    if text_images is not None:
        return []
    used, template = pipe.processor.tokenizer, pipe.prompt_template_encode
    return [TextPart("qwen", used, pipe.tokenizer_max_length, template, multiple=1)]


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Text embeddings are (batch, bundles, tokens, width)."""
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[2], scope="cross")


def _gists(transformer: Any, inputs: Inputs) -> list[int]:
    """Number of gist tokens of each prompt, as the model counts them."""
    mask, config = inputs.get("encoder_attention_mask"), transformer.config
    text = inputs["encoder_hidden_states"]
    lengths = [text.shape[2]] * len(text) if mask is None else mask.sum(1).tolist()
    counted: list[int] = sys.modules[type(transformer).__module__].compute_gist_count(
        lengths, config.min_num_gist_tokens, config.max_num_gist_tokens, config.gist_step, config.gist_min_text_len,
        config.gist_max_text_len,
    )  # fmt: skip
    return counted


def _order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """Gists, image, reference images ask for words; gists come last where prompts differ in their number."""
    gists = _gists(transformer, inputs)
    return SomeQueries(gists[0] if len(set(gists)) == 1 else 0, layout.image, layout.text)


BRIA_FIBO_2 = Family(
    name="bria-fibo-2",
    transformer="BriaFibo2Transformer2DModel",
    models="Bria Fibo 2",
    layers=_layers,
    layout=_layout,
    sigmas=fraction,
    text_parts=_text,
    token_order=_order,
)
