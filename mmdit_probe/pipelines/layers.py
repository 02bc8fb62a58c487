"""The layers of a pipeline, and which of them a study takes."""

from __future__ import annotations

from ..configs import Layers
from ..families import Pipeline, layers_of
from .defaults import expert_layer


def layer_numbers(pipe: Pipeline) -> tuple[int, ...]:
    """The numbers of a pipeline's attention layers, from 0."""
    return tuple(range(len(layers_of(pipe))))


def chosen_layers(pipe: Pipeline, layers: Layers) -> tuple[int, ...]:
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
