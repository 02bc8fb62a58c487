"""Models with plain cross-attention: image queries on text keys, the I2T region alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..attention.layout import TokenLayout
from .family import OWN, PLAIN, Family, Inputs, TextPart, beside, modules, t5, thousandths
from .image_input import call_default
from .latents import latents_then_text


@dataclass(frozen=True)
class UNetPlace:
    """Where a U-Net's block stands: ``stage`` is down, mid or up, ``number`` counts that stage's blocks from 0,
    ``attention`` the transformers in it, ``block`` their blocks."""

    stage: str
    number: int
    attention: int
    block: int


def _unet_blocks(unet: Any) -> list[tuple[UNetPlace, Any]]:
    stages = {"down": unet.down_blocks, "mid": [unet.mid_block], "up": unet.up_blocks}
    return [
        (UNetPlace(stage, number, attention, place), block)
        for stage, parts in stages.items()
        for number, part in enumerate(parts)
        for attention, transformer in enumerate(getattr(part, "attentions", None) or ())
        for place, block in enumerate(getattr(transformer, "transformer_blocks", ()))
    ]


def _unet_layers(unet: Any) -> list[nn.Module]:
    return [block.attn2 for _, block in _unet_blocks(unet) if block.attn2 is not None]


def _unet_self_layers(unet: Any) -> list[nn.Module]:
    return [block.attn1 for _, block in _unet_blocks(unet)]


def unet_places(unet: Any) -> list[UNetPlace]:
    """Where each layer of `UNET_SELF` stands, in order."""
    return [place for place, _ in _unet_blocks(unet)]


def output_projection(attention: Any) -> nn.Module:
    """The linear map from an attention layer's joined heads to its output."""
    return attention.to_out[0]


def _unet_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    rows, cols = inputs["sample"].shape[-2:]
    return TokenLayout((rows, cols), inputs["encoder_hidden_states"].shape[1], scope="cross")


def _unet_level(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """U-Net layers see the latents halved some times, rounded up."""
    rows, cols = layout.grid
    while rows * cols > max(queries, 1):
        rows, cols = (rows + 1) // 2, (cols + 1) // 2
    level = replace(layout, grid=(rows, cols))
    return level if (queries, keys) == (level.queries, level.keys) else None


def _unet_self_layout(unet: Any, inputs: Inputs) -> TokenLayout:
    return replace(_unet_layout(unet, inputs), text=0, scope="joint")


def _ltx_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = inputs["num_frames"], inputs["height"], inputs["width"]
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], scope="cross")


def _clip(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    tokenizer = pipe.tokenizer if pipe.tokenizer is not None else pipe.tokenizer_2  # in SDXL side by side
    return [TextPart("clip", tokenizer, tokenizer.model_max_length)]


def _cleaner(pipe: Any, clean_caption: Any) -> Callable[[str], str]:
    """The pipeline's own preparation of a prompt: in small letters at least."""
    clean = call_default(pipe, "clean_caption") if clean_caption is OWN else clean_caption
    return lambda prompt: str(pipe._text_preprocessing(prompt, clean_caption=clean)[0])


def _pixart_text(pipe: Any, max_sequence_length: int, clean_caption: Any = OWN) -> list[TextPart]:
    return [replace(part, cleaned=_cleaner(pipe, clean_caption)) for part in t5(pipe, max_sequence_length)]


def _wan_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """T5 of a prompt with its spaces and its entities of HTML mended."""
    return [replace(part, cleaned=beside(pipe, "prompt_clean") or str) for part in t5(pipe, max_sequence_length)]


def _sana_text(
    pipe: Any, max_sequence_length: int, complex_human_instruction: Any = OWN, clean_caption: Any = OWN
) -> list[TextPart]:
    """Gemma; of the instruction before the prompt, not before the negative one, only the first token is kept."""
    plain = TextPart("gemma", pipe.tokenizer, max_sequence_length, cleaned=_cleaner(pipe, clean_caption))
    told = complex_human_instruction
    told = call_default(pipe, "complex_human_instruction") if told is OWN else told
    if not told:
        return [plain]
    instruction = "\n".join(told)
    dropped = len(pipe.tokenizer.encode(instruction)) - 2
    return [replace(plain, template=instruction + PLAIN, dropped=dropped, kept=1, negative=plain)]


def _sana_time(transformer: Any, timestep: Tensor) -> Tensor:
    return thousandths(transformer, timestep) / transformer.config.timestep_scale


UNET = Family(
    name="unet",
    transformer="UNet2DConditionModel",
    models="Stable Diffusion 1.5, 2, XL, SSD-1B",
    layers=_unet_layers,
    layout=_unet_layout,
    text_parts=_clip,
    image_argument="sample",
    call_layout=_unet_level,
)
UNET_SELF = replace(UNET, name="unet-self", layers=_unet_self_layers, layout=_unet_self_layout)
"""The same model read by its self-attention: the I2I region alone. For `Probe(family=)`."""

CROSS_ATTENTION = (
    UNET,
    Family(
        name="pixart",
        transformer="PixArtTransformer2DModel",
        models="PixArt-alpha, PixArt-Sigma",
        layers=modules("attn2", "transformer_blocks"),
        layout=latents_then_text("image-text", "cross"),
        text_parts=_pixart_text,
    ),
    Family(
        name="sana",
        transformer="SanaTransformer2DModel",
        models="Sana",
        layers=modules("attn2", "transformer_blocks"),  # attn1 is linear: it has no softmax
        layout=latents_then_text("image-text", "cross"),
        sigmas=_sana_time,
        text_parts=_sana_text,
    ),
    Family(
        name="wan",
        transformer="WanTransformer3DModel",
        models="Wan 2.1, and the first transformer of 2.2",
        layers=modules("attn2", "blocks"),
        layout=latents_then_text("image-text", "cross"),
        text_parts=_wan_text,
    ),
    Family(
        name="ltx-video",
        transformer="LTXVideoTransformer3DModel",
        models="LTX-Video",
        layers=modules("attn2", "transformer_blocks"),
        layout=_ltx_layout,
        text_parts=t5,
    ),
)
