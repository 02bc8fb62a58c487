"""Transformers with plain cross-attention: image queries on text keys, the I2T region alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..attention.layout import TokenLayout
from .family import (
    CALL_DEFAULT,
    PLAIN,
    Family,
    Inputs,
    TextPart,
    grid_of,
    longest_of,
    modules,
    reversed_fraction,
    t5,
    thousandths,
)
from .grids import grid_of_positions
from .latents import latents_then_text
from .pipeline import FamilyPipeline, call_default


def _ltx_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The grid is told, or it is that of the tokens' coordinates, (batch, 3, tokens): frame, row and column."""
    sizes: tuple[Any, ...] = tuple(inputs.get(name) for name in ("num_frames", "height", "width"))
    if None in sizes:
        sizes = _grid_of_coordinates(inputs["video_coords"][0])
    return TokenLayout(sizes, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _grid_of_coordinates(coordinates: Tensor) -> tuple[int, ...]:
    """Frames, rows and columns of tokens at these coordinates, (3, tokens); `ValueError` if they are not one grid."""
    sizes = tuple(len(axis.unique()) for axis in coordinates)
    if math.prod(sizes) != coordinates.shape[1]:
        raise ValueError(
            f"Probe: the {coordinates.shape[1]} video tokens are not one grid of {' x '.join(map(str, sizes))}: the "
            f"pipeline adds frames that it is given as conditions to those that it makes, which is not supported; condition "
            f"the first frame alone"
        )
    return grid_of_positions(coordinates.T, "video coordinates")


def cleaner(pipe: FamilyPipeline, clean_caption: Any) -> Callable[[str], str]:
    """The pipeline's own text preprocessing; it lower-cases at least."""
    clean = call_default(pipe, "clean_caption") if clean_caption is CALL_DEFAULT else clean_caption
    return lambda prompt: str(pipe._text_preprocessing(prompt, clean_caption=clean)[0])


def pixart_text(pipe: FamilyPipeline, max_sequence_length: int, clean_caption: Any = CALL_DEFAULT) -> list[TextPart]:
    """T5, after the pipeline's own text preprocessing."""
    return [replace(part, cleaned=cleaner(pipe, clean_caption)) for part in t5(pipe, max_sequence_length)]


def sana_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    complex_human_instruction: Any = CALL_DEFAULT,
    clean_caption: Any = CALL_DEFAULT,
) -> list[TextPart]:
    """Gemma; an instruction precedes the prompt, but not the negative prompt; all but its first token are cut off."""
    plain = TextPart("gemma", pipe.tokenizer, max_sequence_length, cleaned=cleaner(pipe, clean_caption))
    lines = complex_human_instruction
    lines = call_default(pipe, "complex_human_instruction") if lines is CALL_DEFAULT else lines
    return [after_instruction(pipe, plain, lines)]


def after_instruction(pipe: FamilyPipeline, plain: TextPart, lines: Sequence[str] | None) -> TextPart:
    """The part with an instruction before the prompt, but not before the negative prompt; none without lines."""
    if not lines:
        return plain
    instruction = "\n".join(lines)
    dropped = len(pipe.tokenizer.encode(instruction)) - 2
    return replace(plain, template=instruction + PLAIN, cut=dropped, cut_from=1, negative=plain)


_BERT_LENGTH, _MT5_LENGTH = 77, 256
"""Text positions of HunyuanDiT's two encoders, whatever the pipeline's call is told."""


def _hunyuan_dit_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """BERT, then mT5; the model puts learned padding in the place of both encoders' padding, which is not masked."""
    return [TextPart("bert", pipe.tokenizer, _BERT_LENGTH), TextPart("mt5", pipe.tokenizer_2, _MT5_LENGTH)]


_GEMMA_MULTIPLE = 8
"""Lumina-Next pads prompts to a multiple of this number of tokens."""


def _lumina_next_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    prompt: str | Sequence[str] | None = None,
    clean_caption: Any = CALL_DEFAULT,
) -> list[TextPart]:
    """Gemma, padded to the longest prompt; negative prompts are cut and padded to the prompts' length."""
    part = TextPart(
        "gemma",
        pipe.tokenizer,
        pipe.max_sequence_length,
        multiple=_GEMMA_MULTIPLE,
        cleaned=cleaner(pipe, clean_caption),
    )
    if not prompt:
        return [part]
    longest = longest_of(part, prompt)
    return [replace(part, negative=replace(part, length=longest + -longest % _GEMMA_MULTIPLE, multiple=0))]


def _transformer_2d_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Latents in patches, or, without a patch size, one token a latent pixel."""
    patch = transformer.config.patch_size if transformer.is_input_patches else 1
    text = inputs.get("encoder_hidden_states")
    if text is None or transformer.is_input_vectorized:
        raise ValueError("Probe: this Transformer2DModel has no text, or no latents, to attend to")
    return TokenLayout(grid_of(inputs["hidden_states"].shape[-2:], patch), text.shape[1], scope="cross")


def _sana_time(transformer: Any, timestep: Tensor) -> Tensor:
    return thousandths(transformer, timestep) / transformer.config.timestep_scale


CROSS_ATTENTION = (
    Family(
        name="pixart",
        transformer="PixArtTransformer2DModel",
        models="PixArt-alpha, PixArt-Sigma",
        layers=modules("attn2", "transformer_blocks"),
        layout=latents_then_text("image-text", "cross"),
        text_parts=pixart_text,
    ),
    Family(
        name="sana",
        transformer="SanaTransformer2DModel",
        models="Sana",
        layers=modules("attn2", "transformer_blocks"),  # attn1 is linear attention, without a softmax
        layout=latents_then_text("image-text", "cross"),
        sigmas=_sana_time,
        text_parts=sana_text,
    ),
    Family(
        name="ltx-video",
        transformer="LTXVideoTransformer3DModel",
        models="LTX-Video",
        frames=True,
        layers=modules("attn2", "transformer_blocks"),
        layout=_ltx_layout,
        text_parts=t5,
    ),
    Family(
        name="hunyuan-dit",
        transformer="HunyuanDiT2DModel",
        models="HunyuanDiT",
        layers=modules("attn2", "blocks"),
        layout=latents_then_text("image-text", "cross", text=("encoder_hidden_states", "encoder_hidden_states_t5")),
        text_parts=_hunyuan_dit_text,
    ),
    Family(
        name="lumina-next",
        transformer="LuminaNextDiT2DModel",
        models="Lumina-Next",
        layers=modules("attn2", "layers"),
        layout=latents_then_text("image-text", "cross"),
        sigmas=reversed_fraction,
        text_parts=_lumina_next_text,
    ),
    Family(
        name="transformer-2d",
        transformer="Transformer2DModel",
        models="PixArt-alpha in its first files",
        layers=modules("attn2", "transformer_blocks"),
        layout=_transformer_2d_layout,
        text_parts=pixart_text,
    ),
)
