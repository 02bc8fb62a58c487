"""Cosmos 3: words are a prefix that attends to itself; the video attends to all; the transformer is given the words' ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..attention.layout import Extra, TokenLayout
from ..attention.reordered import Arrangement, View
from .family import PLAIN, Family, Inputs, TextPart, modules, noisiest
from .grids import reference_images, without_one_frame
from .pipeline import FamilyPipeline
from .tokenizers import LONGEST

_FRAMES, _HEIGHT, _WIDTH = 189, 720, 1280
"""What the pipeline makes if it is not told."""


def _frames(inputs: Inputs) -> tuple[tuple[int, int, int], Tensor]:
    """The size of the one video, and (frames,) bool which of its frames are made."""
    if len(inputs["vision_tokens"]) != 1:
        raise ValueError("Probe: Cosmos 3 with several videos in one sequence is not supported; give it one")
    frames, rows, cols = (int(size) for size in inputs["vision_token_shapes"][0])
    made = torch.zeros(frames, dtype=torch.bool)
    made[inputs["vision_noisy_frame_indexes"][0].cpu()] = True
    return (frames, rows, cols), made


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """Words are a prefix that attends to itself; what is made attends to all."""
    (frames, rows, cols), made = _frames(inputs)
    text, others = inputs["und_len"], inputs["sequence_length"] - inputs["und_len"] - frames * rows * cols
    given = int((~made).sum())
    extras = reference_images([(given, rows, cols)] if given else [], "last")
    extras = (*extras, Extra("others", others, "last")) if others else extras
    grid = without_one_frame((int(made.sum()), rows, cols))
    return TokenLayout(grid, text, "text-image", extras, "image-queries")


def _order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View:
    (_, rows, cols), made = _frames(inputs)
    text, total = inputs["und_len"], inputs["sequence_length"]
    vision = inputs["vision_sequence_indexes"].cpu()
    own = made.repeat_interleave(rows * cols)
    rest = torch.ones(total, dtype=torch.bool)
    rest[:text] = False
    rest[vision] = False
    keys = torch.cat([torch.arange(text), vision[own], vision[~own], torch.arange(total)[rest]])
    return Arrangement((vision[own] - text)[None], keys[None], (total - text, total))


class _Rendered:
    """A pipeline that, asked to tokenize prompts, keeps their texts."""

    def __init__(self, pipe: FamilyPipeline) -> None:
        self._pipe, self.texts = pipe, []  # type: tuple[FamilyPipeline, list[str]]
        self.text_tokenizer = SimpleNamespace(apply_chat_template=self._render)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def _render(self, conversations: Any, **options: Any) -> Any:
        options |= {"tokenize": False, "return_dict": False}
        self.texts.append(self._pipe.text_tokenizer.apply_chat_template(conversations, **options))
        return SimpleNamespace(input_ids=[])


def _text(
    pipe: FamilyPipeline,
    max_sequence_length: int,
    negative_prompt: Any = None,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float = 24.0,
    use_system_prompt: bool | None = None,
    add_resolution_template: bool = True,
    add_duration_template: bool = True,
    action: Any = None,
) -> list[TextPart]:
    """Qwen's chat, which says what is made, and two tokens behind it; no parts for actions, whose prompt is rewritten."""
    if action is not None:
        return []
    frames = num_frames or _FRAMES
    told = {
        "num_frames": frames, "height": height or _HEIGHT, "width": width or _WIDTH, "fps": fps,
        "use_system_prompt": use_system_prompt, "add_resolution_template": add_resolution_template,
        "add_duration_template": add_duration_template,
    }  # fmt: skip
    rendered, kind = _Rendered(pipe), type(pipe)  # type: tuple[_Rendered, Any]
    kind.tokenize_prompt(rendered, PLAIN, PLAIN if _first(negative_prompt) else "", **told)
    behind = [pipe.llm_special_tokens[name] for name in ("eos_token_id", "start_of_generation")]
    ending = "".join(pipe.text_tokenizer.convert_ids_to_tokens(behind))
    goes_on = add_resolution_template or (add_duration_template and frames > 1)
    template, negative = (text + ending for text in rendered.texts)
    part = TextPart("qwen", pipe.text_tokenizer, LONGEST, template, special_tokens=False, multiple=1)
    part = replace(part, cleaned=_without_full_stop) if goes_on else part
    return [replace(part, negative=replace(part, template=negative))]


def _without_full_stop(prompt: str) -> str:
    return prompt.rstrip(".")


def _first(prompt: Any) -> str:
    """The prompt that is taken: of several the first one, of none an empty one."""
    return (prompt[0] if isinstance(prompt, list) else prompt) or ""


def _filled(pipe: FamilyPipeline, arguments: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    branches = (("conditional", "prompt"), ("unconditional", "negative_prompt"))
    return [(branch, [_first(arguments.get(name))]) for branch, name in branches]


COSMOS_3 = Family(
    name="cosmos3",
    transformer="Cosmos3OmniTransformer",
    models="Cosmos 3",
    frames=True,
    references=True,
    layers=modules("self_attn", "layers"),
    layout=_layout,
    sigmas=noisiest,
    text_parts=_text,
    image_argument="vision_tokens",
    timestep_argument="vision_timesteps",
    text_argument="input_ids",
    token_order=_order,
    images_in_prompts="none",
    by_ids=True,
    filled=_filled,
    batches=False,
)
