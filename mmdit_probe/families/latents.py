"""Families whose transformer takes unpacked latents of one image: the grid is the latents' shape over the patch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..attention.layout import REFERENCE, Extra, Order, Scope, TokenLayout
from .family import PLAIN, Family, Inputs, Layout, TextPart, fraction, grid_of, modules, t5
from .grids import reference_images, without_one_frame
from .pipeline import FamilyPipeline
from .qwen import behind_images
from .tokenizers import own_length


def latents_then_text(
    order: Order, scope: Scope = "joint", patch: str = "patch_size", text: Sequence[str] = ("encoder_hidden_states",)
) -> Layout:
    """The layout from latents (batch, channels, [frames,] rows, cols) and the lengths of the named text inputs.

    ``patch`` names the configuration's patch size: one number, or (frames, rows, cols).
    """

    def of(transformer: Any, inputs: Inputs) -> TokenLayout:
        size = transformer.config[patch]
        axes = 2 if isinstance(size, int) else len(size)
        grid = grid_of(inputs["hidden_states"].shape[-axes:], size)
        return TokenLayout(grid, sum(inputs[name].shape[1] for name in text), order, scope=scope)

    return of


def _cogview3_text(pipe: FamilyPipeline, max_sequence_length: int, negative_prompt: Any = None) -> list[TextPart]:
    """T5; if there is no negative prompt, its embeddings are zero."""
    absent = TextPart("t5", None, max_sequence_length)
    negative = absent if negative_prompt is None else None
    return [replace(part, negative=negative) for part in t5(pipe, max_sequence_length)]


def _cogview4_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """GLM. Tokenizer and pipeline both pad on the left; with a right-padding tokenizer the positions are not described."""
    if pipe.tokenizer.padding_side != "left":
        return []
    return [TextPart("glm", pipe.tokenizer, max_sequence_length, multiple=16)]


def _hidream_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    latents, masks = inputs["hidden_states"], inputs.get("hidden_states_masks")
    if masks is None:
        rows, cols = grid_of(latents.shape[-2:], transformer.config.patch_size)
        padded = rows * cols if rows == cols else transformer.max_seq  # only square images are not padded
    else:
        rows, cols = (int(size) for size in inputs["img_sizes"][0])
        padded = latents.shape[1]
    llama = inputs["encoder_hidden_states_llama3"][0].shape[-2]
    text = (
        inputs["encoder_hidden_states_t5"].shape[-2] + 2 * llama
    )  # Llama's last layer, then the layer that belongs to the block
    extras = (Extra("padding", padded - rows * cols, "between"),) if padded > rows * cols else ()
    return TokenLayout((rows, cols), text, "image-text", extras)


def _hidream_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """T5, Llama's last layer, then the layer of Llama that belongs to the block; two CLIPs enter pooled, without tokens."""
    llama = TextPart("llama", pipe.tokenizer_4, max_sequence_length, arguments=("prompt_4", "prompt"))
    return [TextPart("t5", pipe.tokenizer_3, max_sequence_length, arguments=("prompt_3", "prompt")), llama, llama]


def _joyimage_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    latents = inputs["hidden_states"]
    frames, rows, cols = grid_of(latents.shape[-3:], transformer.config.patch_size)
    grid = (frames, rows, cols) if frames > 1 else (rows, cols)
    items = latents.shape[1] if latents.ndim == 6 else 1  # the model moves the target to the front
    references = [Extra(REFERENCE, frames * rows * cols, "between", grid)] * (items - 1)
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "image-text", tuple(references))


def _joyimage_plus_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Patches of the image that is made, of the reference images, and of padding, (batch, patches, ...); then the text."""
    shapes = {tuple(tuple(shape) for shape in sample) for sample in inputs["shape_list"]}
    if len(shapes) > 1:
        raise ValueError(
            "Probe: the images of a JoyImage-Edit-Plus batch differ in size; call it with one size at a time"
        )
    grid, *others = shapes.pop()
    references = reference_images(others, "between")
    padding = inputs["hidden_states"].shape[1] - math.prod(grid) - sum(one.tokens for one in references)
    extras = (*references, Extra("padding", padding, "between")) if padding else references
    return TokenLayout(without_one_frame(grid), inputs["encoder_hidden_states"].shape[1], "image-text", extras)


def _joyimage_text(pipe: FamilyPipeline, max_sequence_length: int, template_type: str = "image") -> list[TextPart]:
    """Qwen of a prompt without images, padded to the longest prompt; the beginning of its chat template is cut off."""
    length = min(max_sequence_length or pipe.text_token_max_length, pipe.text_token_max_length)
    template = pipe.prompt_template_encode[template_type]
    dropped = pipe.prompt_template_encode_start_idx[template_type]
    return [TextPart("qwen", pipe.tokenizer, length, template, left_aligned=True, cut=dropped, multiple=1)]


_JOYIMAGE_TURN = "<|im_start|>user\n{}<|im_end|>\n"


def _joyimage_behind(pipe: FamilyPipeline, max_sequence_length: int, prompt: Any = None) -> list[TextPart]:
    """What comes behind the images of one prompt; of several ones, padded in front or behind, the images' places differ."""
    if isinstance(prompt, list) and len(prompt) > 1:
        return []
    template = pipe.prompt_template_encode["multiple_images"].replace(PLAIN, _JOYIMAGE_TURN)
    return behind_images(pipe.processor.tokenizer, template[template.find(PLAIN) :])


def _joyimage_plus_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen of a prompt without images, padded to the longest prompt."""
    template = pipe.prompt_template_encode["multiple_images"].replace(PLAIN, _JOYIMAGE_TURN)
    dropped = pipe.prompt_template_encode_start_idx["multiple_images"]
    used = pipe.processor.tokenizer
    return [TextPart("qwen", used, own_length(used), template, cut=dropped, multiple=1)]


def _joyimage_plus_filled(pipe: FamilyPipeline, arguments: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The negative prompts, or blanks, and the prompts; nothing if the negative prompts' embeddings are given."""
    prompts = _listed(arguments["prompt"])
    if arguments.get("negative_prompt_embeds") is not None:
        return []
    if arguments["guidance_scale"] <= 1:
        return [("conditional", prompts)]
    given = arguments.get("negative_prompt")
    negative = [" "] if given is None else _listed(given)
    every = [negative[number] if number < len(negative) else negative[0] for number in range(len(prompts))]
    return [("unconditional", every), ("conditional", prompts)]


def _listed(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


def _ernie_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Mistral, prompt by prompt, then zeros."""
    return [TextPart("mistral", pipe.tokenizer, own_length(pipe.tokenizer), left_aligned=True, multiple=1)]


def _prx_text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    tokenizer_max_length: int | None = None,
    skip_text_cleaning: bool = False,
) -> list[TextPart]:
    """Gemma, after the pipeline's own text cleaning."""
    cleaned = pipe.text_preprocessor.basic_clean if skip_text_cleaning else pipe.text_preprocessor.clean_text
    return [TextPart("gemma", pipe.tokenizer, tokenizer_max_length or own_length(pipe.tokenizer), cleaned=cleaned)]


def _one_step_early(transformer: Any, timestep: Tensor) -> Tensor:
    """GLM-Image counts timesteps from 0 to 999."""
    return (timestep.float() + 1) / 1000


LATENTS = (
    Family(
        name="cogview3-plus",
        transformer="CogView3PlusTransformer2DModel",
        models="CogView3-Plus",
        layers=modules("attn1", "transformer_blocks"),
        layout=latents_then_text("text-image"),
        text_parts=_cogview3_text,
    ),
    Family(
        name="cogview4",
        transformer="CogView4Transformer2DModel",
        models="CogView4",
        layers=modules("attn1", "transformer_blocks"),
        layout=latents_then_text("text-image"),
        text_parts=_cogview4_text,
    ),
    Family(
        name="glm-image",
        transformer="GlmImageTransformer2DModel",
        models="GLM-Image",
        layers=modules("attn1", "transformer_blocks"),
        layout=latents_then_text("text-image"),
        sigmas=_one_step_early,
    ),
    Family(
        name="hidream",
        transformer="HiDreamImageTransformer2DModel",
        models="HiDream-I1",
        layers=modules("block.attn1", "double_stream_blocks", "single_stream_blocks"),
        layout=_hidream_layout,
        text_parts=_hidream_text,
        timestep_argument="timesteps",
    ),
    Family(
        name="joyimage",
        transformer="JoyImageEditTransformer3DModel",
        models="JoyImage-Edit",
        references=True,
        layers=modules("attn", "double_blocks"),
        layout=_joyimage_layout,
        text_parts=_joyimage_text,
        text_behind=_joyimage_behind,
        images_in_prompts="first",
    ),
    Family(
        name="joyimage-plus",
        transformer="JoyImageEditPlusTransformer3DModel",
        models="JoyImage-Edit-Plus",
        references=True,
        layers=modules("attn", "double_blocks"),
        layout=_joyimage_plus_layout,
        text_parts=_joyimage_plus_text,
        text_behind=_joyimage_behind,
        images_in_prompts="first",
        filled=_joyimage_plus_filled,
    ),
    Family(
        name="ernie-image",
        transformer="ErnieImageTransformer2DModel",
        models="ERNIE-Image",
        layers=modules("self_attention", "layers"),
        layout=latents_then_text("image-text", text=["text_bth"]),
        text_parts=_ernie_text,
        text_argument="text_bth",
        verbatim_prompt_args={"use_pe": False},
    ),
    Family(
        name="prx",
        transformer="PRXTransformer2DModel",
        models="PRX",
        layers=modules("attention", "blocks"),
        layout=latents_then_text("text-image", "image-queries"),  # the text is never updated: it has keys alone
        sigmas=fraction,
        text_parts=_prx_text,
    ),
)
