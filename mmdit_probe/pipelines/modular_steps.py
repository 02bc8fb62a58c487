"""The steps of modular pipelines that encode prompts: what they are given, and what they leave in the pipeline's state."""

from __future__ import annotations

import sys
from typing import Any

from .encoded import CONDITIONAL, UNCONDITIONAL

_MODULE = "diffusers.modular_pipelines.modular_pipeline"
_EMBEDDINGS = ("prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds")


def pipeline_class() -> type | None:
    """The class of modular pipelines; None while nobody has loaded it."""
    module = sys.modules.get(_MODULE)
    return None if module is None else module.ModularPipeline


def step_class() -> type | None:
    """The class of modular pipelines' steps; None while nobody has loaded it."""
    module = sys.modules.get(_MODULE)
    return None if module is None else module.ModularPipelineBlocks


def request_of(step: Any, state: Any) -> dict[str, Any] | None:
    """By name what the step is given, if it is one that encodes prompts; else None.

    The image of an editing model's prompt is ``image``, whatever the step calls it.
    """
    if step.sub_blocks or "prompt_embeds" not in {output.name for output in step.intermediate_outputs}:
        return None
    inputs = {given.name: given.default for given in step.inputs if given.name}
    if "prompt" not in inputs:
        return None
    values = {name: state.get(name) for name in inputs}
    arguments = {name: inputs[name] if value is None else value for name, value in values.items()}
    images = [value for name, value in arguments.items() if "image" in name.split("_") and value is not None]
    return {**arguments, "image": images[0] if images else None}


def encoded_in(state: Any) -> tuple[Any, Any, Any]:
    """The prompts' embeddings, their mask and the negative prompts' embeddings; None where there are none."""
    embeddings, mask, negative = (state.get(name) for name in _EMBEDDINGS)
    return embeddings, mask, negative


def guided_branch(pipe: Any) -> str | None:
    """The branch of guidance that a modular pipeline's guider is preparing; None if it has none or does not count them."""
    guider = getattr(pipe, "guider", None)
    conditional = getattr(guider, "is_conditional", None) if getattr(guider, "_count_prepared", 0) else None
    return None if conditional is None else CONDITIONAL if conditional else UNCONDITIONAL


class WithStep:
    """A modular pipeline, and what its step that encodes prompts says of itself: its template, its lengths."""

    def __init__(self, pipe: Any, step: Any) -> None:
        self._pipe, self._step = pipe, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe if hasattr(self._pipe, name) else self._step, name)
