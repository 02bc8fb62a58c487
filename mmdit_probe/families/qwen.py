"""Qwen-Image and NucleusMoE-Image: packed latents, their grid in an argument of shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from .family import PLAIN, Family, Inputs, TextPart, fraction, modules
from .flux import with_references
from .image_input import ImageInput, Text, guidance_of, packed, same
from .pipeline import FamilyPipeline
from .schedule import even_sigmas
from .tokenizers import LONGEST


def grid_from_shapes(shapes: Any, layered: bool = False) -> tuple[int, ...]:
    """(rows, cols), or with frames first, of the first sample's images: the target comes first, then references.

    In layered models all images but the last are made, and count as frames.
    """
    images = _images(shapes)
    frames, rows, cols = images[0]
    frames = len(images) - 1 if layered and len(images) > 1 else frames
    return _without_single_frame(frames, rows, cols)


def references_from_shapes(shapes: Any, layered: bool = False) -> list[tuple[int, ...]]:
    """The grids of the first sample's reference images: all images but the target; in layered models, the last."""
    images = _images(shapes)
    return [_without_single_frame(*shape) for shape in (images[1:][-1:] if layered else images[1:])]


def _images(shapes: Any) -> list[tuple[int, int, int]]:
    """(frames, rows, cols) of the first sample's images."""
    first = shapes if isinstance(shapes[0], int) else shapes[0]
    return [first] if isinstance(first[0], int) else list(first)


def _without_single_frame(frames: int, rows: int, cols: int) -> tuple[int, ...]:
    return (frames, rows, cols) if frames > 1 else (rows, cols)


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    given = inputs["img_shapes"], transformer.config.use_layer3d_rope
    text, packed = inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1]
    return with_references(grid_from_shapes(*given), text, packed, references_from_shapes(*given))


def _text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    template, dropped = pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx
    return [TextPart("qwen", pipe.tokenizer, max_sequence_length, template, left_aligned=True, cut=dropped)]


_VISION_END = "<|vision_end|>"


def behind_images(tokenizer: Any, template: str) -> list[TextPart]:
    """Qwen of a chat in which images come before the words: the words, and the template behind them; no parts without words."""
    after = template.split(_VISION_END)[-1] if _VISION_END in template else template[template.find(PLAIN) :]
    if PLAIN not in template:
        return []
    return [TextPart("qwen", tokenizer, LONGEST, after, special_tokens=False, left_aligned=True, multiple=1)]


def _text_behind(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    return behind_images(pipe.tokenizer, pipe.prompt_template_encode)


def _nucleus_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat template, padded to the longest prompt, rounded up to a multiple of 8."""
    length, template = max_sequence_length or pipe.default_max_sequence_length, pipe._format_prompt(PLAIN)
    return [TextPart("qwen", pipe.processor.tokenizer, length, template, multiple=8)]


def _nucleus_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    grid, text = grid_from_shapes(inputs["img_shapes"]), inputs["encoder_hidden_states"].shape[1]
    return TokenLayout(grid, text, "image-text", scope="image-queries")  # the text has keys alone


def _latents(pipe: FamilyPipeline, pixels: Tensor) -> Tensor:
    """Latents of a video autoencoder, from one frame; each channel is normalized by its own mean and standard deviation."""
    encoded = pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mean.squeeze(2)
    mean, spread = (
        torch.tensor(values, device=encoded.device, dtype=encoded.dtype)[:, None, None]
        for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std)
    )
    return (encoded - mean) / spread


def _prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, mask = pipe.encode_prompt(list(prompts), max_sequence_length=max_sequence_length)
    return {"encoder_hidden_states": embeddings, "encoder_hidden_states_mask": mask}


def _state(state: Text) -> dict[str, Any]:
    return {"encoder_hidden_states": state["prompt_embeds"], "encoder_hidden_states_mask": state["prompt_embeds_mask"]}


def _arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    rows, cols = (size // 2 for size in noisy.shape[-2:])
    image = {"hidden_states": packed(noisy), "img_shapes": [[(1, rows, cols)]] * len(noisy)}
    return {**image, **guidance_of(pipe, len(noisy)), **text}


QWEN = (
    Family(
        name="qwen-image",
        transformer="QwenImageTransformer2DModel",
        models="Qwen-Image",
        frames=True,
        references=True,
        layers=modules("attn", "transformer_blocks"),
        layout=_layout,
        sigmas=fraction,
        text_parts=_text,
        image_input=ImageInput(_prompts, _arguments, _latents, even_sigmas, same, _state),
        text_behind=_text_behind,
        images_in_prompts="first",
    ),
    Family(
        name="nucleus-image",
        transformer="NucleusMoEImageTransformer2DModel",
        models="NucleusMoE-Image",
        layers=modules("attn", "transformer_blocks"),
        layout=_nucleus_layout,
        sigmas=fraction,
        text_parts=_nucleus_text,
    ),
)
