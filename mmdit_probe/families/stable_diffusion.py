"""Stable Diffusion 3 and 3.5: unpacked latents, image before text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..attention.layout import TokenLayout
from .family import Family, Inputs, TextPart, grid_of, modules
from .image_input import ImageInput
from .pipeline import FamilyPipeline


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "image-text")


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """The two CLIP encoders share the first positions, side by side in the channels; T5 follows."""
    length, t5 = pipe.tokenizer_max_length, pipe.tokenizer_3 if pipe.text_encoder_3 is not None else None
    second = TextPart("clip", pipe.tokenizer_2, length, arguments=("prompt_2", "prompt"))
    return [
        TextPart("clip", pipe.tokenizer, length, sharing=second),
        TextPart("t5", t5, max_sequence_length, arguments=("prompt_3", "prompt")),
    ]


def _prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        list(prompts), None, None, do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings, "pooled_projections": pooled}


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"encoder_hidden_states": state["prompt_embeds"], "pooled_projections": state["pooled_prompt_embeds"]}


T5_PARTS = ("text_encoder_3", "tokenizer_3")
"""Components of a Stable Diffusion 3 pipeline that it also works without."""


def without_t5(index: Mapping[str, Any]) -> dict[str, None]:
    """Options of `from_pretrained` that leave T5 out, for a pipeline with this model_index; none if it has no such T5."""
    ours = str(index.get("_class_name", "")).startswith("StableDiffusion3")
    return dict.fromkeys(T5_PARTS) if ours and T5_PARTS[0] in index else {}


def stable_diffusion_3_pipeline() -> type[Any]:
    """The class of Stable Diffusion 3's pipeline, which writes LoRA files in its form."""
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline


STABLE_DIFFUSION_3 = Family(
    name="sd3",
    transformer="SD3Transformer2DModel",
    models="Stable Diffusion 3, 3.5",
    layers=modules("attn", "transformer_blocks"),  # attn2 of SD3.5 sees only the image
    layout=_layout,
    text_parts=_text,
    expert=9,
    depth=24,  # SD3 and SD3.5 medium; SD3.5 large has 38
    image_input=ImageInput(_prompts, modular_text=_state),
)
