"""HunyuanImage 2.1 and its refiner: the image, then ByT5's words and the language model's."""

from __future__ import annotations

from typing import Any

from ..attention.layout import TokenLayout
from .family import Family, Inputs, TextPart, grid_of, modules
from .flux import BLOCKS
from .grids import without_one_frame
from .pipeline import FamilyPipeline, from_module
from .tokenizers import Bytes


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The text is ByT5's valid tokens, the language model's, then all masked ones; the refiner has no ByT5."""
    patch = transformer.config.patch_size
    glyphs = inputs.get("encoder_hidden_states_2")
    text = inputs["encoder_hidden_states"].shape[1] + (0 if glyphs is None else glyphs.shape[1])
    return TokenLayout(without_one_frame(grid_of(inputs["hidden_states"].shape[2:], patch)), text, "image-text")


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """ByT5 of the quoted texts, Qwen of the whole prompt in a chat, whose beginning is cut off."""
    qwen = TextPart(
        "qwen", pipe.tokenizer, pipe.tokenizer_max_length, pipe.prompt_template_encode,
        cut=pipe.prompt_template_encode_start_idx,
    )  # fmt: skip
    quoted = from_module(pipe, "extract_glyph_text")
    if quoted is None:
        return [qwen]
    glyphs = TextPart(
        "byt5", Bytes(pipe.tokenizer_2), pipe.tokenizer_2_max_length, padding_last=True,
        cleaned=lambda text: quoted(text) or "",
    )  # fmt: skip
    return [glyphs, qwen]


HUNYUAN_IMAGE = Family(
    name="hunyuan-image",
    transformer="HunyuanImageTransformer2DModel",
    models="HunyuanImage 2.1 and its refiner",
    frames=True,
    layers=modules("attn", *BLOCKS),
    layout=_layout,
    text_parts=_text,
)
