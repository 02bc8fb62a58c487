"""The steps of modular pipelines that have prompts: what they are given, and what they leave in the pipeline's state."""

from __future__ import annotations

from typing import Any

from ..families import encodes_prompts, inputs_of, passes_embeddings, steps_of, takes_images
from .encoded import CONDITIONAL, UNCONDITIONAL

_EMBEDDINGS = ("prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds")


def request_of(pipe: Any, step: Any, state: Any) -> dict[str, Any] | None:
    """By name what the step is given, if it encodes prompts, or takes the embeddings of prompts that nobody gave; else None.

    The image of an editing model's prompt is ``image``, whatever the step calls it.
    """
    own = encodes_prompts(step)
    if not own and not (passes_embeddings(step) and state.get("prompt") is None):
        return None
    inputs = inputs_of(step)
    values = {name: state.get(name) for name in inputs}
    arguments = {name: inputs[name] if value is None else value for name, value in values.items()}
    if own:
        images = [value for name, value in arguments.items() if "image" in name.split("_") and value is not None]
    else:
        with_images = any(encodes_prompts(other) and takes_images(other) for other in steps_of(pipe))
        images = [state.get("image")] if with_images else []
    return {**arguments, "image": images[0] if images else None}


def encoded_in(state: Any) -> tuple[Any, Any, Any]:
    """The prompts' embeddings, their mask and the negative prompts' embeddings; None where there are none."""
    embeddings, mask, negative = (state.get(name) for name in _EMBEDDINGS)
    return embeddings, mask, negative


def guided_branch(pipe: Any) -> str | None:
    """The branch of guidance that a modular pipeline's guider is preparing.

    None if it has no guider, or if that leaves some of its predictions out at this step: which call is which is then not said.
    """
    guider = getattr(pipe, "guider", None)
    predictions, at = getattr(guider, "_input_predictions", None) or (), getattr(guider, "_count_prepared", 0)
    if not 0 < at <= len(predictions) == getattr(guider, "num_conditions", 0):
        return None
    return UNCONDITIONAL if predictions[at - 1] == "pred_uncond" else CONDITIONAL
