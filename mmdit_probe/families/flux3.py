"""Flux.3: text, image, then reference images that come in arguments of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..attention.layout import Extra, TokenLayout
from .family import PLAIN, Family, Inputs, TextPart, fraction, modules
from .flux import flux2_latents
from .grids import grid_of_positions, references_at, without_one_frame
from .image_input import ImageInput, Text, places, same
from .modular import steps_of
from .pipeline import FamilyPipeline
from .schedule import given_sigmas

_LONGEST = 8192
"""Text positions at which the pipeline cuts prompts, if it is not told."""


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The position ids are (frame, row, column, number), rows and columns scaled."""
    ids, given = inputs["img_ids"], inputs.get("image_cond_hidden_states")
    grid = without_one_frame(grid_of_positions((ids[0] if ids.ndim == 3 else ids)[:, :3]))
    extras = () if given is None else _references(inputs["image_cond_ids"])
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image", extras)


def _references(ids: Tensor) -> tuple[Extra, ...]:
    ids = ids[0] if ids.ndim == 3 else ids
    return references_at(ids[:, :3], ids[:, 3], "last")


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat of the prompt alone, padded behind the words to a multiple of 80; the padding is attended to."""
    processor = pipe.tokenizer
    chat = [{"role": "user", "content": PLAIN}]
    template = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    part = TextPart("qwen", processor.tokenizer, max_sequence_length or _LONGEST, template, left_aligned=True)
    return [replace(part, multiple=pipe.pad_multiple)]


def _state(state: Text) -> dict[str, Any]:
    """Position ids (tokens, 4) of the text are 0, 0, 0, number."""
    embeddings = state["prompt_embeds"]
    number = torch.arange(embeddings.shape[1], device=embeddings.device, dtype=torch.float32)
    ids = torch.nn.functional.pad(number[:, None], (3, 0))
    return {"encoder_hidden_states": embeddings, "txt_ids": ids}


def _arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """Position ids (tokens, 4) of the image are 0, row, column, 0, rows and columns scaled as the pipeline scales them."""
    if pipe.transformer.config.flow_map:
        raise ValueError(
            "image: a step-distilled Flux.3 is also told the noise level that a step leads to, which one forward pass has not; "
            "use the model that is not distilled"
        )
    scale = next(step.image_rope_scale for step in steps_of(pipe) if hasattr(step, "image_rope_scale"))
    ids = torch.nn.functional.pad(places(*noisy.shape[-2:]).float() * scale, (1, 1)).to(noisy.device)
    image = {"hidden_states": rearrange(noisy, "batch channel row col -> batch (row col) channel"), "img_ids": ids}
    return {**image, **text, "encoder_hidden_states": text["encoder_hidden_states"].to(noisy.dtype)}


def _sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """Even noise levels, shifted by the scheduler's own constant."""
    return given_sigmas(pipe, np.linspace(1.0, 1 / steps, steps))


def _no_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    raise ValueError(
        f"image: {type(pipe).__name__} is not Flux.3's modular pipeline, the only one that encodes its prompts"
    )


FLUX_3 = Family(
    name="flux3",
    transformer="Flux3Transformer2DModel",
    models="Flux.3",
    references=True,
    layers=modules("attn", "single_transformer_blocks"),  # before them, each stream attends to itself
    layout=_layout,
    sigmas=fraction,
    text_parts=_text,
    batches=False,
    image_input=ImageInput(_no_prompts, _arguments, flux2_latents, _sigmas, same, _state),
)
