"""Models built on Flux: Bria, LongCat-Image, Ovis-Image and Krea 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from .family import PLAIN, Family, Inputs, TextPart, fraction, modules, t5
from .flux import BLOCKS, grid_from_ids, position_layout, reference_grids, with_references
from .image_input import ImageInput, Text, packed, position_ids, same
from .pipeline import FamilyPipeline, from_module
from .schedule import even_sigmas, given_sigmas
from .tokenizers import Pieces, Started

_FIBO_START = 128000
"""Id of the token that Bria-Fibo puts in place of an empty prompt."""


def _krea2_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The position ids are the text's, then the image's."""
    text, packed = inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1]
    _, image_ids = inputs["position_ids"].split([text, packed])
    return with_references(grid_from_ids(image_ids), text, packed, reference_grids(image_ids))


def _bria_text(pipe: FamilyPipeline, max_sequence_length: int, negative_prompt: Any = None) -> list[TextPart]:
    """T5, then zeros. If there is no negative prompt (the first of the batch decides), its embeddings are zero."""
    first = negative_prompt[0] if isinstance(negative_prompt, list) and negative_prompt else negative_prompt
    absent = TextPart("t5", None, max_sequence_length)
    return [replace(part, negative=None if first else absent) for part in t5(pipe, max_sequence_length)]


def _fibo_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """SmolLM, padded to the longest prompt; an empty prompt is its start token at every position."""
    return [TextPart("smollm", Started(pipe.tokenizer, _FIBO_START), max_sequence_length, multiple=1)]


def _longcat_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen; quoted text is tokenized letter by letter. The chat template is cut off before and after the prompt."""
    divided = from_module(pipe, "split_quotation")

    def split(prompt: str) -> list[str]:
        return [piece for part, quoted in divided(prompt) for piece in (part if quoted else [part])]

    return [TextPart("qwen", Pieces(pipe.tokenizer, split), pipe.tokenizer_max_length, special_tokens=False)]


def _ovis_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen with a chat template; its beginning is cut off."""
    chat = [{"role": "user", "content": pipe.system_prompt + PLAIN}]
    template = pipe.tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return [
        TextPart(
            "qwen", pipe.tokenizer, max_sequence_length, template, special_tokens=False, cut=pipe.user_prompt_begin_id
        )
    ]


def _krea2_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """Qwen; the padding lies between the prompt and the end of its template."""
    end = pipe.prompt_template_encode_suffix
    length = max_sequence_length - pipe.prompt_template_encode_num_suffix_tokens
    template, dropped = pipe.prompt_template_encode_prefix + PLAIN, pipe.prompt_template_encode_start_idx
    return [
        TextPart("qwen", pipe.tokenizer, length, template, cut=dropped),
        TextPart("qwen", pipe.tokenizer, len(pipe.tokenizer(end)["input_ids"]), end),
    ]


def _longcat_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    """The text length is fixed by the pipeline."""
    embeddings, ids = pipe.encode_prompt(list(prompts))
    return {"encoder_hidden_states": embeddings, "txt_ids": ids}


def _longcat_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    """Position ids (tokens, 3): 1 for the image, then row and column, both counted from the longest text length."""
    start = torch.tensor([1, pipe.tokenizer_max_length, pipe.tokenizer_max_length])
    ids = (position_ids(noisy).cpu() + start).float()
    return {"hidden_states": packed(noisy), "img_ids": ids.to(noisy.device), **text}


def _ovis_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, _, ids, _ = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings, "txt_ids": ids}


def _packed_arguments(pipe: FamilyPipeline, noisy: Tensor, text: Text) -> dict[str, Any]:
    return {"hidden_states": packed(noisy), "img_ids": position_ids(noisy), **text}


def _bria_prompts(pipe: FamilyPipeline, prompts: Sequence[str], max_sequence_length: int) -> dict[str, Any]:
    embeddings, _, ids = pipe.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=max_sequence_length
    )
    return {"encoder_hidden_states": embeddings, "txt_ids": ids[0]}


def _bria_sigmas(pipe: FamilyPipeline, steps: int, tokens: int) -> list[float]:
    """Shifted for the number of image tokens; without dynamic shifting, the levels of the training schedule."""
    config = pipe.scheduler.config
    if "use_dynamic_shifting" not in config:
        raise ValueError(
            f"image: images are read with Bria's flow-matching schedule, not with {type(pipe.scheduler).__name__}; "
            "set pipe.scheduler to a FlowMatchEulerDiscreteScheduler"
        )
    if config["use_dynamic_shifting"]:
        return even_sigmas(pipe, steps, tokens)
    levels = from_module(pipe, "get_original_sigmas")(config["num_train_timesteps"], steps)
    return given_sigmas(pipe, levels)


FLUX_DERIVATIVES = (
    Family(
        name="bria",
        transformer="BriaTransformer2DModel",
        models="Bria 3",
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        text_parts=_bria_text,
        image_input=ImageInput(_bria_prompts, _packed_arguments, sigmas=_bria_sigmas),
        patch=1,  # the pipeline's vae_scale_factor already covers a token
    ),
    Family(
        name="bria-fibo",
        transformer="BriaFiboTransformer2DModel",
        models="Bria Fibo",
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        text_parts=_fibo_text,
    ),
    Family(
        name="longcat-image",
        transformer="LongCatImageTransformer2DModel",
        models="LongCat-Image",
        references=True,
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
        sigmas=fraction,
        text_parts=_longcat_text,
        text_behind=_longcat_text,
        images_in_prompts="first",
        image_input=ImageInput(_longcat_prompts, _longcat_arguments, sigmas=even_sigmas, time=same),
        verbatim_prompt_args={"enable_prompt_rewrite": False},
    ),
    Family(
        name="ovis-image",
        transformer="OvisImageTransformer2DModel",
        models="Ovis-Image",
        layers=modules("attn", *BLOCKS),
        layout=position_layout,
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
