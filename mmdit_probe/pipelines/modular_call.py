"""Calls of any pipeline with the arguments of ordinary ones: modular pipelines take and give other things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..families import Pipeline, call_arguments, denoiser_of, family_of, guided_by, is_modular, without_tracebacks

_KINDS = ("images", "videos")
"""Under which names modular pipelines leave what they have made."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a modular pipeline has made, under the names of ordinary pipelines' results; None for what it does not make."""

    images: Any = None
    frames: Any = None


def call_pipeline(pipe: Pipeline, prompt: str | Sequence[str], **arguments: Any) -> Any:
    """The pipeline's call: what it returns has ``images`` or, of videos, ``frames``.

    A modular pipeline is called with the same arguments: ``guidance_scale`` is its guider's for this call if its call takes
    none, several prompts are given one by one if it takes one at a time, and for the output type "latent" the images are
    decoded too, as such pipelines have no common way to leave that out.

    Raises:
        ValueError: a modular pipeline takes no argument of such a name, or its guider has no single scale.
    """
    if not is_modular(pipe):
        return pipe(prompt=prompt if isinstance(prompt, str) else list(prompt), **arguments)
    known = call_arguments(pipe)
    scale = None if "guidance_scale" in known else arguments.pop("guidance_scale", None)
    unknown = sorted(arguments.keys() - known.keys())
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    if arguments.get("output_type") == "latent":
        arguments["output_type"] = "pt"
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    one_by_one = len(prompts) == 1 or not family_of(denoiser_of(pipe)).batches
    with guided_by(pipe, scale), without_tracebacks():
        if not one_by_one:
            return _made(pipe(prompt=prompts, output=_outputs(pipe), **arguments))
        each = [
            {name: _own(value, number, len(prompts)) for name, value in arguments.items()}
            for number in range(len(prompts))
        ]
        made = [_made(pipe(prompt=text, output=_outputs(pipe), **own)) for text, own in zip(prompts, each, strict=True)]
    return Made(*(_joined([getattr(one, name) for one in made]) for name in ("images", "frames")))


def _outputs(pipe: Any) -> list[str]:
    return [name for name in _KINDS if name in pipe.blocks.intermediate_output_names]


def _own(value: Any, number: int, prompts: int) -> Any:
    """A prompt's own part of an argument: random generators come one for each."""
    one_each = isinstance(value, list) and len(value) == prompts and all(isinstance(v, torch.Generator) for v in value)
    return value[number] if one_each else value


def _joined(parts: Sequence[Any]) -> Any:
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [image for part in parts for image in part]


def _made(found: Mapping[str, Any]) -> Made:
    return Made(found.get("images"), found.get("videos"))


def as_ordinary(output: Any) -> Any:
    """A pipeline's output with ``images`` or ``frames``, whatever a modular one was asked to return; others unchanged."""
    if hasattr(output, "images") or hasattr(output, "frames"):
        return output
    values = getattr(output, "values", None)
    if isinstance(output, Mapping):
        return _made(output)
    if isinstance(values, Mapping):  # the state of all steps
        return _made(values)
    if isinstance(output, list | Tensor | np.ndarray):  # one thing that was asked for
        return Made(images=output)
    return output
