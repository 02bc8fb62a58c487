"""Joint attention over one sequence that is told token by token: Ideogram 4, OmniGen, MiniMax-H3, Qwen-Image 2.1."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import REFERENCE, Extra, TokenLayout
from ..attention.reordered import Arrangement, View
from .family import PLAIN, Family, Inputs, TextPart, fraction, grid_of, longest_of, modules, noisiest, reversed_fraction
from .grids import grid_of_positions, reference_images, references_at, without_one_frame
from .pipeline import FamilyPipeline
from .tokenizers import LONGEST, Front, own_length

_IDEOGRAM_IMAGE = 2
"""Ideogram 4's indicator of an image token."""
_SLOT = 4
"""Latent tokens that stand in the place of one image position of Qwen-Image 2.1's text encoder."""


def _ideogram4_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Padding and words, then the image."""
    image = inputs["indicator"] == _IDEOGRAM_IMAGE
    count = int(image[0].sum())
    if not bool(image[:, image.shape[1] - count :].all()) or int(image.sum()) != count * len(image):
        raise ValueError("Probe: Ideogram 4's image tokens must stand behind the words, as many in every batch row")
    grid = grid_of_positions(inputs["position_ids"][0, image.shape[1] - count :, 1:])
    return TokenLayout(grid, image.shape[1] - count, "text-image")


def _ideogram4_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat of the prompt, padded in front; the negative half is another module's, without words."""
    chat = [{"role": "user", "content": [{"type": "text", "text": PLAIN}]}]
    template = pipe.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return [TextPart("qwen", Front(pipe.tokenizer), max_sequence_length, template, special_tokens=False)]


def _omnigen_references(inputs: Inputs) -> list[list[tuple[int, int]]]:
    """For each batch row the positions, from and to, of its reference images."""
    sizes = inputs.get("input_image_sizes") or {}
    return [
        [(int(start), int(end)) for start, end in sizes.get(row, ())] for row in range(len(inputs["hidden_states"]))
    ]


def _omnigen_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Words, with reference images among them; one token for the timestep; the image."""
    grid = grid_of(inputs["hidden_states"].shape[-2:], transformer.config.patch_size)
    before = inputs["input_ids"].shape[-1]
    sizes = [[end - start for start, end in spans] for spans in _omnigen_references(inputs)]
    counts = [sum(row) for row in sizes]
    alike = all(row == sizes[0] for row in sizes)  # else the images of one number differ in size
    images = sizes[0] if alike else [max(counts)]
    extras = (Extra("time", 1, "between"), *(Extra(REFERENCE, count, "last") for count in images))
    return TokenLayout(grid, before - min(counts), "text-image", extras)


def _omnigen_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View | None:
    """Words and references apart; batch rows with fewer of either leave the rest out, in front."""
    spans = _omnigen_references(inputs)
    if not any(spans):
        return None
    before = inputs["input_ids"].shape[-1]
    references = layout.tokens - layout.text - 1 - layout.image
    rows = []
    for row in spans:
        inside = torch.zeros(before, dtype=torch.bool)
        for start, end in row:
            inside[start:end] = True
        place = torch.arange(before)
        rest = torch.arange(before, before + 1 + layout.image)
        rows.append(torch.cat([_filled(place[~inside], layout.text), rest, _filled(place[inside], references)]))
    return Arrangement(torch.stack(rows))


def _filled(places: Tensor, count: int) -> Tensor:
    return torch.nn.functional.pad(places, (count - len(places), 0), value=-1)


_OMNIGEN_TEMPLATE = (
    "<|user|>\nGenerate an image according to the following instructions\n{}<|end|>\n<|assistant|>\n<|diffusion|>"
)


def _omnigen_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    prompt: str | Sequence[str] | None = None,
    input_images: Any = None,
) -> list[TextPart]:
    """Phi-3 with a chat, padded in front to the longest of the prompts and of the pipeline's own negative prompt.

    No parts for prompts with images, which stand among the words.
    """
    if input_images is not None:
        return []
    used = pipe.tokenizer
    plain = TextPart("phi", used, LONGEST, _OMNIGEN_TEMPLATE)
    prompts = [prompt] if isinstance(prompt, str) else [*(prompt or ())]
    least = longest_of(replace(plain, cleaned=_in_template), [_omnigen_negative(pipe), *prompts])
    return [replace(plain, tokenizer=Front(used, least), multiple=1)]


def _in_template(prompt: str) -> str:
    return _OMNIGEN_TEMPLATE.replace(PLAIN, prompt)


def _omnigen_negative(pipe: FamilyPipeline) -> str:
    return str(inspect.signature(type(pipe.multimodal_processor).__call__).parameters["negative_prompt"].default)


def _omnigen_filled(pipe: FamilyPipeline, arguments: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The prompts, the negative prompt for each, and with images these alone, for each."""
    prompt = arguments["prompt"]
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    times = 1 if arguments.get("input_images") is None else 2
    return [("conditional", prompts), ("unconditional", [_omnigen_negative(pipe)] * len(prompts) * times)]


def _minimax_text(
    pipe: FamilyPipeline, max_sequence_length: int, keyframes: Any = None, normalized_references: Any = None
) -> list[TextPart]:
    """Qwen of the bare prompt; no parts if keyframes or references stand before it."""
    if keyframes is not None or normalized_references is not None:
        return []
    return [TextPart("qwen", pipe.tokenizer, LONGEST, special_tokens=False, multiple=1)]


def _minimax_places(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions of the words, of the video that is made, of the given images, of audio: the video has the noisiest timestep."""
    text, video = inputs["text_indices"], inputs["video_indices"]
    levels = inputs["timestep"][inputs["timestep_indices"]].flatten()
    made = levels[video] == levels[video].max()
    audio = inputs.get("audio_indices")
    return text, video[made], video[~made], text[:0] if audio is None else audio


def _minimax_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    text, made, given, audio = _minimax_places(inputs)
    grid = grid_of_positions(inputs["position_ids"][made])
    images = inputs["position_ids"][given]
    references = references_at(images, torch.zeros(len(images)), "last")
    extras = (*references, Extra("audio", len(audio), "last")) if len(audio) else references
    return TokenLayout(without_one_frame(grid), len(text), "text-image", extras)


def _minimax_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    return Arrangement(torch.cat(_minimax_places(inputs)).expand(len(inputs["hidden_states"]), -1))


def _qwen21_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Words, with reference images among them, are a prefix that attends to itself; the image attends to all."""
    *references, (frames, rows, cols) = inputs["img_shapes"][0]
    words = int((~inputs["img_mask"][0].bool()).sum())
    grid = without_one_frame((frames, rows, cols))
    return TokenLayout(grid, words, "text-image", reference_images(references, "last"), "image-queries")


def _qwen21_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen of a prompt without images, padded to the longest prompt; the system's turn is cut off."""
    used, template, dropped = pipe.processor.tokenizer, pipe.prompt_template_t2i, pipe._drop_idx
    part = TextPart("qwen", used, own_length(used), template, left_aligned=True, cut=dropped, multiple=1)
    return [replace(part, cleaned=lambda prompt: prompt or " ")]


def _qwen21_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    """The image's call: its queries alone on all keys; the prefix's own calls are left."""
    slots = inputs["img_mask"][0].bool().cpu()
    is_image = slots.repeat_interleave(torch.where(slots, _SLOT, 1))
    places, batch = torch.arange(len(is_image)), len(inputs["hidden_states"])
    pictures = places[is_image]
    keys = torch.cat([places[~is_image], pictures[-layout.image :], pictures[: -layout.image]])
    queries = torch.arange(layout.image).expand(batch, -1)
    return Arrangement(queries, keys.expand(batch, -1), (layout.image, layout.tokens))


ONE_SEQUENCE = (
    Family(
        name="ideogram4",
        transformer="Ideogram4Transformer2DModel",
        models="Ideogram 4",
        layers=modules("attention", "layers"),
        layout=_ideogram4_layout,
        sigmas=reversed_fraction,
        text_parts=_ideogram4_text,
    ),
    Family(
        name="omnigen",
        transformer="OmniGenTransformer2DModel",
        models="OmniGen",
        references=True,
        layers=modules("self_attn", "layers"),
        layout=_omnigen_layout,
        sigmas=reversed_fraction,
        text_argument="input_ids",
        text_parts=_omnigen_text,
        filled=_omnigen_filled,
        token_order=_omnigen_order,
        images_in_prompts="apart",
    ),
    Family(
        name="minimax-h3",
        transformer="MiniMaxH3Transformer3DModel",
        models="MiniMax-H3",
        frames=True,
        references=True,
        layers=modules("attn", "transformer_blocks"),
        layout=_minimax_layout,
        sigmas=noisiest,
        text_parts=_minimax_text,
        batches=False,
        token_order=_minimax_order,
        images_in_prompts="apart",
    ),
    Family(
        name="qwen-image-2.1",
        transformer="QwenImage21Transformer2DModel",
        models="Qwen-Image 2.1",
        references=True,
        layers=modules("attn", "transformer_blocks"),
        layout=_qwen21_layout,
        sigmas=fraction,
        text_parts=_qwen21_text,
        token_order=_qwen21_order,
        images_in_prompts="apart",
    ),
)
