"""Modular pipelines: their steps, what their call takes, prompts through their own text step, their guider."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MODULE = "diffusers.modular_pipelines.modular_pipeline"
EMBEDDINGS = "prompt_embeds"
"""What a step leaves that encodes prompts."""


def pipeline_class() -> type | None:
    """The class of modular pipelines; None while nobody has loaded it."""
    module = sys.modules.get(_MODULE)
    return None if module is None else module.ModularPipeline


def step_class() -> type | None:
    """The class of modular pipelines' steps; None while nobody has loaded it."""
    module = sys.modules.get(_MODULE)
    return None if module is None else module.ModularPipelineBlocks


class WithStep:
    """A modular pipeline, and what its step that encodes prompts says of itself: its template, its lengths."""

    def __init__(self, pipe: Any, step: Any) -> None:
        self._pipe, self._step = pipe, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe if hasattr(self._pipe, name) else self._step, name)


def is_modular(pipe: Any) -> bool:
    """Whether a pipeline is a modular one."""
    kind = pipeline_class()
    return isinstance(pipe, WithStep) or (kind is not None and isinstance(pipe, kind))


def steps_in(blocks: Any) -> Iterator[Any]:
    """A step of a modular pipeline and all that it is made of, in order."""
    yield blocks
    for inner in blocks.sub_blocks.values():
        yield from steps_in(inner)


def steps_of(pipe: Any) -> Iterator[Any]:
    """All steps of a modular pipeline, whichever of them a call runs."""
    return steps_in(pipe._blocks)


def encodes_prompts(step: Any) -> bool:
    """Whether it is a step's own work to encode prompts."""
    return not step.sub_blocks and EMBEDDINGS in _left(step) and "prompt" in inputs_of(step)


def passes_embeddings(step: Any) -> bool:
    """Whether a step takes embeddings that were encoded before and gives them on, once for each image."""
    names = inputs_of(step)
    return not step.sub_blocks and EMBEDDINGS in _left(step) and EMBEDDINGS in names and "prompt" not in names


def inputs_of(step: Any) -> dict[str, Any]:
    """What a step takes, by name, and the defaults."""
    return {given.name: given.default for given in step.inputs if given.name}


def _left(step: Any) -> set[str]:
    return {output.name for output in step.intermediate_outputs}


def for_a_prompt(pipe: Any) -> Any:
    """The steps that run if a modular pipeline is given a prompt and nothing else."""
    blocks = pipe._blocks
    return blocks.get_execution_blocks(prompt="") if blocks.sub_blocks else blocks


def call_inputs(pipe: Any) -> dict[str, Any]:
    """What a modular pipeline's call takes, by name, and the defaults: of text to image where tasks differ."""
    own = {name: value for name, value in inputs_of(for_a_prompt(pipe)).items() if value is not None}
    return {**inputs_of(pipe._blocks), **own}


def needed_parts(pipe: Any) -> list[str]:
    """The parts without which a modular pipeline makes nothing of a prompt."""
    specs = for_a_prompt(pipe).expected_components
    return [spec.name for spec in specs if spec.default_creation_method == "from_pretrained"]


def text_step(pipe: Any) -> Any:
    """The step of a modular pipeline that encodes a prompt that comes alone; None if it has none."""
    steps = (step for step in steps_in(for_a_prompt(pipe)) if encodes_prompts(step))
    return next((step for step in steps if set(step.required_inputs) <= {"prompt"}), None)


def takes_images(step: Any) -> bool:
    """Whether images are a part of the prompts that a step encodes."""
    return any("image" in name.split("_") or "images" in name.split("_") for name in inputs_of(step))


def verbatim(blocks: Any) -> Any:
    """The steps without those that rewrite prompts before they are encoded."""
    for name, step in list(blocks.sub_blocks.items()):
        left = _left(step)
        if "prompt" in left and EMBEDDINGS not in left:
            blocks.sub_blocks.pop(name)
    return blocks


def quiet(pipe: Any) -> None:
    """No progress bars; the pipeline's own method reaches its outermost steps alone."""
    for step in steps_of(pipe):
        if hasattr(step, "set_progress_bar_config"):
            step.set_progress_bar_config(disable=True)


def encoded_prompts(pipe: Any, prompts: Sequence[str], max_sequence_length: int, together: bool) -> Mapping[str, Any]:
    """By name, what the text step of a modular pipeline leaves of prompts; ``together`` False encodes them one by one.

    ``max_sequence_length`` 0 is the pipeline's own. `ValueError` if prompts that are encoded one by one differ in length.
    """
    if together:
        return _encoded(pipe, list(prompts), max_sequence_length)
    each = [_encoded(pipe, prompt, max_sequence_length) for prompt in prompts]
    lengths = {made[EMBEDDINGS].shape[1] for made in each}
    if len(lengths) > 1:
        raise ValueError(
            f"prompts: {type(pipe).__name__} encodes one prompt at a time, and these have {sorted(lengths)} text positions; "
            "give one prompt at a time"
        )
    tensors = (name for name, value in each[0].items() if isinstance(value, Tensor))
    return {name: torch.cat([made[name] for made in each]) for name in tensors}


def _encoded(pipe: Any, prompts: str | list[str], max_sequence_length: int) -> Mapping[str, Any]:
    step, state = text_step(pipe), sys.modules[_MODULE].PipelineState()
    if step is None:
        raise ValueError(f"prompts: {type(pipe).__name__} has no step that encodes a prompt without an image")
    given: dict[str, Any] = {"prompt": prompts}
    if max_sequence_length:
        given["max_sequence_length"] = max_sequence_length
    for name in inputs_of(step).keys() & given.keys():
        state.set(name, given[name])
    step(pipe, state)
    values: Mapping[str, Any] = state.values
    return values


def guider_of(pipe: Any) -> Any:
    """A modular pipeline's guider; None if it has none."""
    return getattr(pipe, "guider", None) if is_modular(pipe) else None


@contextmanager
def without_tracebacks() -> Iterator[None]:
    """Inside, an error in a step is raised alone; modular pipelines log it too, with its traceback, once for each step around."""
    logger = logging.getLogger(_MODULE)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def guided_by(pipe: Any, scale: float | None) -> Iterator[None]:
    """Inside, the guider of a modular pipeline has this scale; None leaves its own.

    `ValueError` if it has no guider, or one of several scales.
    """
    if scale is None:
        yield
        return
    guider = guider_of(pipe)
    if not hasattr(guider, "guidance_scale"):
        what = "has no guider" if guider is None else f"has a {type(guider).__name__}, which has no single scale"
        raise ValueError(f"guidance_scale: {type(pipe).__name__} {what}; leave it out, or set pipe.guider")
    own, guider.guidance_scale = guider.guidance_scale, scale
    try:
        yield
    finally:
        guider.guidance_scale = own
