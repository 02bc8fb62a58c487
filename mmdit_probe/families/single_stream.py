"""Z-Image and Lumina 2: image and text pass refiners of their own, then one stream of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import Extra, TokenLayout
from ..attention.reordered import Arrangement
from .family import PLAIN, Family, Inputs, TextPart, grid_of, modules, reversed_fraction
from .image_input import ImageInput, Text, reverse
from .pipeline import FamilyPipeline
from .schedule import even_sigmas, moved_sigmas, shift_of

_Z_MULTIPLE = 32
"""Z-Image pads the image and the text to multiples of this number of tokens."""


def _z_image_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    images, captions = inputs["x"], inputs["cap_feats"]
    if isinstance(images[0], list):
        raise ValueError(
            "Probe: Z-Image with several images a sample has no single grid; "
            "give Probe(layout=TokenLayout(...)), or call it with one image a sample"
        )
    if len({image.shape for image in images}) > 1:
        raise ValueError("Probe: the images of a Z-Image batch differ in size; call it with one size at a time")
    patch = inputs.get("patch_size", 2)
    frames, rows, cols = grid_of(images[0].shape[-3:], (inputs.get("f_patch_size", 1), patch, patch))
    layout = TokenLayout((frames, rows, cols) if frames > 1 else (rows, cols), 0)
    padding = Extra("padding", -layout.image % _Z_MULTIPLE, "between")
    longest = max(len(caption) for caption in captions)
    text = longest + -longest % _Z_MULTIPLE
    return TokenLayout(layout.grid, text, "image-text", (padding,))


def _z_image_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    chat = [{"role": "user", "content": PLAIN}]
    template = pipe.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    return [TextPart("qwen", pipe.tokenizer, max_sequence_length, template, left_aligned=True)]


def _z_image_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, _ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"cap_feats": embeddings}


def _z_image_state(state: Text) -> dict[str, Any]:
    return {"cap_feats": state["prompt_embeds"]}


def _z_image_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """The latents as a list of samples, (channels, 1, rows, cols) each."""
    return {"x": list(noisy.unsqueeze(2)), **text}


def _lumina2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    return TokenLayout(grid, int(inputs["encoder_attention_mask"].sum(1).max()), "text-image")


def _lumina2_text(pipe: FamilyPipeline, max_sequence_length: int, system_prompt: str | None = None) -> list[TextPart]:
    """Gemma; a system prompt precedes the prompt, but not the negative prompt."""
    system = pipe.system_prompt if system_prompt is None else system_prompt
    plain = TextPart("gemma", pipe.tokenizer, max_sequence_length)
    return [replace(plain, template=f"{system} <Prompt Start> {PLAIN}", negative=plain)]


def _lumina2_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, mask, *_ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask}


def _lumina2_sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """With dynamic shifting, the pipeline takes the latents' channels for the number of image tokens, and so do we."""
    return moved_sigmas(pipe, steps, shift_of(pipe, pipe.transformer.config.in_channels))


def _lumina2_source(transformer: Any, inputs: Inputs, layout: TokenLayout) -> Arrangement | None:
    """In the call each sample is its words, its image, then padding; in the layout the padding follows the words."""
    words = inputs["encoder_attention_mask"].sum(1)
    if bool((words == layout.text).all()):
        return None
    place = torch.arange(layout.tokens, device=words.device).expand(len(words), -1)
    words = words[:, None]
    in_text = torch.where(place < words, place, place + layout.image)
    return Arrangement(torch.where(place < layout.text, in_text, place - layout.text + words))


SINGLE_STREAM = (
    Family(
        name="z-image",
        transformer="ZImageTransformer2DModel",
        models="Z-Image",
        layers=modules("attention", "layers"),  # refiners see only the image or only the text
        layout=_z_image_layout,
        sigmas=reversed_fraction,
        text_parts=_z_image_text,
        image_argument="x",
        timestep_argument="t",
        text_argument="cap_feats",
        image_input=ImageInput(
            _z_image_prompts, _z_image_arguments, sigmas=even_sigmas, time=reverse, modular_text=_z_image_state
        ),
    ),
    Family(
        name="lumina2",
        transformer="Lumina2Transformer2DModel",
        models="Lumina Image 2.0",
        layers=modules("attn", "layers"),
        layout=_lumina2_layout,
        sigmas=reversed_fraction,
        text_parts=_lumina2_text,
        image_input=ImageInput(_lumina2_prompts, sigmas=_lumina2_sigmas, time=reverse),
        token_order=_lumina2_source,
    ),
)
