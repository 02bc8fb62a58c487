"""Flux.1, Flux.2 and Chroma: packed latents, their grid in position ids; text before image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..attention.layout import REFERENCE, Extra, TokenLayout
from .family import PLAIN, Family, Inputs, TextPart, fraction, modules, t5
from .grids import grid_of_positions
from .image_input import ImageInput, Text, encoded, guidance_of, packed, places, position_ids, same
from .pipeline import FamilyPipeline, from_module
from .schedule import even_sigmas, moved_sigmas

BLOCKS = ("transformer_blocks", "single_transformer_blocks")


def grid_from_ids(ids: Tensor) -> tuple[int, ...]:
    """Rows and columns of the generated image, from (tokens, 3 or 4) position ids.

    The first id tells images apart: reference images carry another one than the target, which comes first. `ValueError` unless
    the target is a grid in order, and each image's tokens stand together.
    """
    ids = ids.detach().cpu()
    numbers, tokens = ids[:, 0].unique_consecutive(return_counts=True)
    images = ids[:, 1:3].split(tokens.tolist())
    lines = all(len(axis.unique()) == 1 for axis in (images[0][:, 0], images[0][:, 1])) or all(
        len(image[:, 1].unique()) == 1 for image in images
    )
    if len(numbers.unique()) < len(numbers) or (len(numbers) > 1 and lines):
        raise ValueError(
            "Probe: the position ids are no image's: (image, row, column) of its tokens, row after row, then those of "
            "reference images; give Probe(layout=TokenLayout((rows, cols), text tokens, 'text-image'))"
        )
    return grid_of_positions(images[0])


def reference_grids(ids: Tensor) -> list[tuple[int, int] | None]:
    """The grids of the reference images behind the target, from (tokens, 3 or 4) position ids: the first id numbers images.

    A single None if an image's ids are not row after row those of a grid.
    """
    ids = ids.cpu()
    behind = ids[(ids[:, 0] == ids[0, 0]).long().cumprod(0).sum() :]
    if not len(behind):
        return []
    _, counts = behind[:, 0].unique_consecutive(return_counts=True)
    grids = [_full_grid(image[:, 1:3]) for image in behind.split(counts.tolist())]
    return grids if all(grids) and len(behind[:, 0].unique()) == len(grids) else [None]


def _full_grid(places: Tensor) -> tuple[int, int] | None:
    """Rows and columns if (tokens, 2) places run through a grid row by row, else None."""
    places = places - places[0]
    rows, cols = (int(last) + 1 for last in places[-1])
    if rows < 1 or cols < 1 or rows * cols != len(places):
        return None
    token = torch.arange(rows * cols)
    return (rows, cols) if torch.equal(places.long(), torch.stack([token // cols, token % cols], 1)) else None


def with_references(
    grid: tuple[int, ...], text: int, packed: int, references: Sequence[tuple[int, ...] | None] = ()
) -> TokenLayout:
    """Text, then ``packed`` image tokens: those beyond the grid belong to reference images.

    ``references`` are their grids; if these are not as many tokens, the references stay one stream without a grid.
    """
    behind = packed - TokenLayout(grid, text, "text-image").image
    sizes = [0 if known is None else math.prod(known) for known in references]
    if behind and sum(sizes) == behind and all(sizes):
        extras = [Extra(REFERENCE, size, "last", known) for size, known in zip(sizes, references, strict=True)]
    else:
        extras = [Extra(REFERENCE, behind, "last")] if behind else []
    return TokenLayout(grid, text, "text-image", tuple(extras))


def position_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    ids = inputs["img_ids"]
    ids = ids[0] if ids.ndim == 3 else ids
    text, packed = inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1]
    return with_references(grid_from_ids(ids), text, packed, reference_grids(ids))


def _second_t5(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """CLIP enters pooled, without tokens."""
    return [TextPart("t5", pipe.tokenizer_2, max_sequence_length, arguments=("prompt_2", "prompt"))]


def _system_message(pipe: FamilyPipeline) -> str | None:
    """Of a pipeline, or of a modular one's step; None in Klein."""
    names = ("system_message", "DEFAULT_SYSTEM_MESSAGE")
    return next((getattr(pipe, name) for name in names if hasattr(pipe, name)), None)


def _flux2_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Mistral with a chat of system message and prompt; in Klein, Qwen with a chat of the prompt alone."""
    message = _system_message(pipe)
    if message is None:
        chat: list[Any] = [{"role": "user", "content": PLAIN}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        template = pipe.tokenizer.apply_chat_template(chat, **options)
        return [TextPart("qwen", pipe.tokenizer, max_sequence_length, template)]
    said = [("system", message), ("user", PLAIN)]
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said]
    template = pipe.tokenizer.apply_chat_template(chat, add_generation_prompt=False, tokenize=False)
    tokenizer = getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)  # a processor holds one
    part = TextPart("mistral", tokenizer, max_sequence_length, template, special_tokens=False)
    return [replace(part, cleaned=lambda prompt: prompt.replace("[IMG]", ""))]


def _flux_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, pooled, ids = pipe.encode_prompt(list(prompts), None, max_sequence_length=max_sequence_length)
    return {"encoder_hidden_states": embeddings, "pooled_projections": pooled, "txt_ids": ids}


def _flux_state(state: Text) -> dict[str, Any]:
    embeddings = state["prompt_embeds"]
    ids = torch.zeros(embeddings.shape[1], 3, device=embeddings.device, dtype=embeddings.dtype)
    return {"encoder_hidden_states": embeddings, "pooled_projections": state["pooled_prompt_embeds"], "txt_ids": ids}


def _flux_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    image = {"hidden_states": packed(noisy), "img_ids": position_ids(noisy)}
    return {**image, **guidance_of(pipe, len(noisy)), **text}


def flux2_latents(pipe: FamilyPipeline, pixels: Tensor) -> Tensor:
    """(batch, 4 channels, rows / 2, cols / 2): a token each, normalized by the autoencoder's running statistics."""
    patched = rearrange(
        encoded(pipe, pixels), "batch channel (row two) (col pair) -> batch (channel two pair) row col", two=2, pair=2
    )
    norm, eps = pipe.vae.bn, pipe.vae.config.batch_norm_eps
    mean, spread = (
        statistic[:, None, None].to(patched) for statistic in (norm.running_mean, torch.sqrt(norm.running_var + eps))
    )
    return (patched - mean) / spread


def _flux2_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, ids = pipe.encode_prompt(list(prompts), max_sequence_length=max_sequence_length)
    return {"encoder_hidden_states": embeddings, "txt_ids": ids}


def _flux2_state(state: Text) -> dict[str, Any]:
    """Position ids (batch, tokens, 4) of the text are 0, 0, 0, number."""
    embeddings = state["prompt_embeds"]
    number = torch.arange(embeddings.shape[1], device=embeddings.device)
    ids = torch.nn.functional.pad(number[:, None], (3, 0)).expand(len(embeddings), -1, -1)
    return {"encoder_hidden_states": embeddings, "txt_ids": ids}


def _flux2_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """Position ids (batch, tokens, 4) are 0, row, column, 0."""
    ids = torch.nn.functional.pad(places(*noisy.shape[-2:]), (1, 1)).to(noisy.device).expand(len(noisy), -1, -1)
    image = {"hidden_states": rearrange(noisy, "batch channel row col -> batch (row col) channel"), "img_ids": ids}
    return {**image, **guidance_of(pipe, len(noisy)), **text}


def _flux2_sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """Shifted for the number of steps, too."""
    return moved_sigmas(pipe, steps, from_module(pipe, "compute_empirical_mu")(tokens, steps))


def _chroma_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, ids, mask, *_ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings, "txt_ids": ids, "attention_mask": mask}


def _chroma_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """The attention mask covers the text, then the image."""
    latents, mask = packed(noisy), text["attention_mask"]
    seen = torch.ones(latents.shape[:2], dtype=mask.dtype, device=mask.device)
    image = {"hidden_states": latents, "img_ids": position_ids(noisy)}
    return {**text, **image, "attention_mask": torch.cat([mask, seen], 1)}


FLUX = (
    Family(
        name="flux",
        transformer="FluxTransformer2DModel",
        models="Flux.1",
        references=True,
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        sigmas=fraction,
        text_parts=_second_t5,
        expert=12,
        depth=57,  # 19 double-stream and 38 single-stream blocks
        image_input=ImageInput(_flux_prompts, _flux_arguments, sigmas=even_sigmas, time=same, modular_text=_flux_state),
    ),
    Family(
        name="flux2",
        transformer="Flux2Transformer2DModel",
        models="Flux.2",
        references=True,
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        sigmas=fraction,
        text_parts=_flux2_text,
        image_input=ImageInput(_flux2_prompts, _flux2_arguments, flux2_latents, _flux2_sigmas, same, _flux2_state),
    ),
    Family(
        name="chroma",
        transformer="ChromaTransformer2DModel",
        models="Chroma",
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        sigmas=fraction,
        text_parts=t5,
        image_input=ImageInput(_chroma_prompts, _chroma_arguments, sigmas=even_sigmas, time=same),
    ),
)
