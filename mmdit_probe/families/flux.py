"""Flux and its kin: packed latents whose grid stands in position ids, text before image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..attention.layout import Extra, TokenLayout
from .family import PLAIN, Family, Inputs, TextPart, beside, fraction, modules, t5
from .image_input import (
    ImageInput,
    Text,
    even_sigmas,
    given_sigmas,
    guidance_of,
    moved_sigmas,
    packed,
    places,
    position_ids,
    same,
)
from .tokenizers import Pieces, Started

_BLOCKS = ("transformer_blocks", "single_transformer_blocks")
_FIBO_START = 128000
"""The token that stands for an empty prompt."""


def grid_from_ids(ids: Tensor) -> tuple[int, int]:
    """Rows and columns of the image that is being made, from (tokens, 3 or 4) position ids.

    The first id tells images apart: reference images carry another one than the target, which comes first.
    """
    image = ids[(ids[:, 0] == ids[0, 0]).cpu()].cpu()
    rows, cols = (int(axis.max() - axis.min()) + 1 for axis in image[:, 1:3].unbind(-1))
    if rows * cols != len(image):
        raise ValueError(
            f"Probe: the position ids span {rows} x {cols} but there are {len(image)} image tokens; "
            f"give Probe(layout=TokenLayout((rows, cols), text tokens, 'text-image'))"
        )
    return rows, cols


def with_references(grid: tuple[int, ...], text: int, packed: int) -> TokenLayout:
    """Text, then ``packed`` image tokens of which those beyond the grid belong to reference images."""
    target = TokenLayout(grid, text, "text-image")
    references = packed - target.image
    return TokenLayout(grid, text, "text-image", (Extra("reference", references, "last"),) if references else ())


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    ids = inputs["img_ids"]
    grid = grid_from_ids(ids[0] if ids.ndim == 3 else ids)
    return with_references(grid, inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1])


def _krea2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Its ids are those of text and image, one after the other."""
    text, packed = inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1]
    _, image_ids = inputs["position_ids"].split([text, packed])
    return with_references(grid_from_ids(image_ids), text, packed)


def _second_t5(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    return [TextPart("t5", pipe.tokenizer_2, max_sequence_length)]  # CLIP is pooled: it makes no tokens


def _klein(pipe: Any) -> bool:
    return not hasattr(pipe, "system_message")


def _flux2_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """Mistral, with a chat of the pipeline's system message and the prompt; in Klein Qwen, with the prompt alone."""
    if _klein(pipe):
        chat = [{"role": "user", "content": PLAIN}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        template = pipe.tokenizer.apply_chat_template(chat, **options)
        return [TextPart("qwen", pipe.tokenizer, max_sequence_length, template)]
    return _mistral(pipe, max_sequence_length)


def _mistral(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    said = [("system", pipe.system_message), ("user", PLAIN)]
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    template = pipe.tokenizer.apply_chat_template(chat, add_generation_prompt=False, tokenize=False)
    tokenizer = getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)  # a processor holds one
    part = TextPart("mistral", tokenizer, max_sequence_length, template, special=False)
    return [replace(part, cleaned=lambda prompt: prompt.replace("[IMG]", ""))]


def _bria_text(pipe: Any, max_sequence_length: int, negative_prompt: Any = None) -> list[TextPart]:
    """T5, zeros behind; without a negative prompt, which the first one decides, its half is zero."""
    first = negative_prompt[0] if isinstance(negative_prompt, list) and negative_prompt else negative_prompt
    absent = TextPart("t5", None, max_sequence_length)
    return [replace(part, negative=None if first else absent) for part in t5(pipe, max_sequence_length)]


def _fibo_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """SmolLM, as long as the longest prompt; an empty one is its beginning of a text, over and over."""
    return [TextPart("smollm", Started(pipe.tokenizer, _FIBO_START), max_sequence_length, multiple=1)]


def _longcat_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """Qwen, what stands in quotes letter by letter; the chat around the prompt is cut off behind it too."""
    divided = beside(pipe, "split_quotation")

    def split(prompt: str) -> list[str]:
        return [piece for part, quoted in divided(prompt) for piece in (part if quoted else [part])]

    return [TextPart("qwen", Pieces(pipe.tokenizer, split), pipe.tokenizer_max_length, special=False)]


def _ovis_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat template, whose beginning is cut off."""
    chat = [{"role": "user", "content": pipe.system_prompt + PLAIN}]
    template = pipe.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return [
        TextPart(
            "qwen", pipe.tokenizer, max_sequence_length, template, special=False, dropped=pipe.user_prompt_begin_id
        )
    ]


def _krea2_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """Qwen; padding stands between the prompt and the end of its template."""
    end = pipe.prompt_template_encode_suffix
    length = max_sequence_length - pipe.prompt_template_encode_num_suffix_tokens
    template, dropped = pipe.prompt_template_encode_prefix + PLAIN, pipe.prompt_template_encode_start_idx
    return [
        TextPart("qwen", pipe.tokenizer, length, template, dropped=dropped),
        TextPart("qwen", pipe.tokenizer, len(pipe.tokenizer(end)["input_ids"]), end),
    ]


def _flux_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, pooled, ids = pipe.encode_prompt(list(prompts), None, max_sequence_length=max_sequence_length)
    return {"encoder_hidden_states": features, "pooled_projections": pooled, "txt_ids": ids}


def _flux_arguments(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    image = {"hidden_states": packed(noisy), "img_ids": position_ids(noisy)}
    return {**image, **guidance_of(pipe, len(noisy)), **text}


def _flux2_latents(pipe: Any, pixels: Tensor) -> Tensor:
    """Already 2 x 2 latent pixels a token, channels first, each channel normalized by the autoencoder's running statistics."""
    encoded = pipe.vae.encode(pixels).latent_dist.mean
    patched = rearrange(
        encoded, "batch channel (row two) (col pair) -> batch (channel two pair) row col", two=2, pair=2
    )
    norm, eps = pipe.vae.bn, pipe.vae.config.batch_norm_eps
    mean, spread = (
        statistic[:, None, None].to(patched) for statistic in (norm.running_mean, torch.sqrt(norm.running_var + eps))
    )
    return (patched - mean) / spread


def _flux2_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, ids = pipe.encode_prompt(list(prompts), max_sequence_length=max_sequence_length)
    return {"encoder_hidden_states": features, "txt_ids": ids}


def _flux2_arguments(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    """Ids (batch, tokens, 4): 0, row, column, 0; Klein is told no guidance."""
    ids = torch.nn.functional.pad(places(*noisy.shape[-2:]), (1, 1)).to(noisy.device).expand(len(noisy), -1, -1)
    image = {"hidden_states": rearrange(noisy, "batch channel row col -> batch (row col) channel"), "img_ids": ids}
    return {**image, **({} if _klein(pipe) else guidance_of(pipe, len(noisy))), **text}


def _flux2_sigmas(pipe: Any, steps: int, tokens: int) -> list[float]:
    """Moved by the number of steps too."""
    return moved_sigmas(pipe, steps, beside(pipe, "compute_empirical_mu")(tokens, steps))


def _chroma_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, ids, mask, *_ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": features, "txt_ids": ids, "attention_mask": mask}


def _chroma_arguments(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    """The mask of the text, made longer by the image."""
    latents, mask = packed(noisy), text["attention_mask"]
    seen = torch.ones(latents.shape[:2], dtype=mask.dtype, device=mask.device)
    image = {"hidden_states": latents, "img_ids": position_ids(noisy)}
    return {**text, **image, "attention_mask": torch.cat([mask, seen], 1)}


def _longcat_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    """The pipeline has a length of its own."""
    features, ids = pipe.encode_prompt(list(prompts))
    return {"encoder_hidden_states": features, "txt_ids": ids}


def _longcat_arguments(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    """The image is of another kind than the text, 1, and its rows and columns count on from the text's longest prompt."""
    start = torch.tensor([1, pipe.tokenizer_max_length, pipe.tokenizer_max_length])
    ids = (position_ids(noisy).cpu() + start).float()
    return {"hidden_states": packed(noisy), "img_ids": ids.to(noisy.device), **text}


def _ovis_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, _, ids, _ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": features, "txt_ids": ids}


def _packed_arguments(pipe: Any, noisy: Tensor, text: Text) -> dict[str, Any]:
    return {"hidden_states": packed(noisy), "img_ids": position_ids(noisy), **text}


def _bria_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    features, _, ids = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": features, "txt_ids": ids[0]}


def _bria_sigmas(pipe: Any, steps: int, tokens: int) -> list[float]:
    """Moved by the number of image tokens; a schedule that is not moved so takes its levels from those of training."""
    config = pipe.scheduler.config
    if "use_dynamic_shifting" not in config:
        raise ValueError(
            f"image: images are read with Bria's flow-matching schedule, not with {type(pipe.scheduler).__name__}; "
            "set pipe.scheduler to a FlowMatchEulerDiscreteScheduler"
        )
    if config["use_dynamic_shifting"]:
        return even_sigmas(pipe, steps, tokens)
    levels = beside(pipe, "get_original_sigmas")(config["num_train_timesteps"], steps)
    return given_sigmas(pipe, levels)


FLUX = (
    Family(
        name="flux",
        transformer="FluxTransformer2DModel",
        models="Flux.1",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        sigmas=fraction,
        text_parts=_second_t5,
        expert=12,
        depth=57,  # 19 double-stream and 38 single-stream blocks
        image_input=ImageInput(_flux_prompts, _flux_arguments, sigmas=even_sigmas, time=same),
    ),
    Family(
        name="flux2",
        transformer="Flux2Transformer2DModel",
        models="Flux.2",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        sigmas=fraction,
        text_parts=_flux2_text,
        image_input=ImageInput(_flux2_prompts, _flux2_arguments, _flux2_latents, _flux2_sigmas, same),
    ),
    Family(
        name="chroma",
        transformer="ChromaTransformer2DModel",
        models="Chroma",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        sigmas=fraction,
        text_parts=t5,
        image_input=ImageInput(_chroma_prompts, _chroma_arguments, sigmas=even_sigmas, time=same),
    ),
    Family(
        name="bria",
        transformer="BriaTransformer2DModel",
        models="Bria 3",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        text_parts=_bria_text,
        image_input=ImageInput(_bria_prompts, _packed_arguments, sigmas=_bria_sigmas),
        patch=1,  # its pipeline counts one halving more than its autoencoder makes
    ),
    Family(
        name="bria-fibo",
        transformer="BriaFiboTransformer2DModel",
        models="Bria Fibo",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        text_parts=_fibo_text,
    ),
    Family(
        name="longcat-image",
        transformer="LongCatImageTransformer2DModel",
        models="LongCat-Image",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        sigmas=fraction,
        text_parts=_longcat_text,
        image_input=ImageInput(_longcat_prompts, _longcat_arguments, sigmas=even_sigmas, time=same),
        verbatim_prompt_args={"enable_prompt_rewrite": False},
    ),
    Family(
        name="ovis-image",
        transformer="OvisImageTransformer2DModel",
        models="Ovis-Image",
        layers=modules("attn", *_BLOCKS),
        layout=_layout,
        sigmas=fraction,
        text_parts=_ovis_text,
        image_input=ImageInput(_ovis_prompts, _packed_arguments, sigmas=even_sigmas, time=same),
    ),
    Family(
        name="krea2",
        transformer="Krea2Transformer2DModel",
        models="Krea 2",
        layers=modules("attn", "transformer_blocks"),
        layout=_krea2_layout,
        sigmas=fraction,
        text_parts=_krea2_text,
    ),
)
