"""The layers of a pipeline, and which of them a study takes."""

from __future__ import annotations

from typing import Any

from ..configs import Layers
from ..families import denoiser_of, family_of
from .defaults import expert_layer


def layer_numbers(pipe: Any) -> tuple[int, ...]:
    """The numbers of a pipeline's attention layers, from 0."""
    transformer = denoiser_of(pipe)
    return tuple(range(len(family_of(transformer).layers(transformer))))


def chosen_layers(pipe: Any, layers: Layers) -> tuple[int, ...]:
    """Layer numbers: those given, all of the pipeline's, or its known expert layer.

    `ValueError` if no expert layer is known, or for "auto", which only `studies.expert_layer.find_expert` can answer.
    """
    if layers == "all":
        return layer_numbers(pipe)
    if layers == "expert":
        return (expert_layer(pipe),)
    if layers == "auto":
        raise ValueError("layers: 'auto' is for the command line; find the layer with find_expert and give its number")
    return layers


def layer_count(model: str, revision: str | None = None) -> int | None:
    return None
