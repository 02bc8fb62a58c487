"""What is read if the user names nothing, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..configs import ExploreConfig, GenerationConfig, Layers, Timesteps, scaled_timesteps
from ..explorer.measure import chosen
from ..families import Pipeline
from ..metrics.verdicts import counted
from ..pipelines.defaults import ModelDefaults, model_defaults
from ..pipelines.generation import steps_at
from ..pipelines.layers import layer_numbers


@dataclass(frozen=True)
class Plan:
    """What is read of one image.

    Attributes:
        layers: the layers whose maps are kept.
        timesteps: the timesteps that are kept, counted from the clean end.
        steps: the number of sampling steps.
        layer: the layer that a word's map is of if none is named; None for the mean of ``layers``.
        timestep: the timestep that a word's map, heads and principal components are of if none is named.
        head_groups: most groups of heads whose maps are kept.
        defaults: the model's, its expert layer among them.
        why: what was chosen, and why, a sentence each.
    """

    layers: tuple[int, ...]
    timesteps: tuple[int, ...]
    steps: int
    layer: int | None
    timestep: int
    head_groups: int
    defaults: ModelDefaults
    why: tuple[str, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Each timestep's position in the sampling loop, from 0."""
        return steps_at(self.timesteps, self.steps)


def plan_of(
    pipe: Pipeline,
    generation: GenerationConfig,
    layers: Layers | None = None,
    timesteps: Timesteps | None = None,
    head_groups: int = 8,
    image: np.ndarray | None = None,
) -> Plan:
    """What is read of an image of the generation's size, or of ``image`` (height, width, 3).

    Of a grid of up to 256 image tokens everything, of a larger one six layers and timesteps 8 and 28 of 28, as in the explorer.
    """
    config = ExploreConfig(layers=layers, timesteps=timesteps, head_groups=head_groups, generation=generation)
    kept, times = chosen(pipe, config, image)
    defaults, known = model_defaults(pipe), layer_numbers(pipe)
    wanted = scaled_timesteps((8,), generation.steps)[0]
    timestep = min(times, key=lambda number: abs(number - wanted))
    layer = defaults.expert_layer if defaults.expert_layer in kept else None
    if layer is None and len(kept) == 1:
        layer = kept[0]
    why = (
        _of_layers(kept, len(known), layers is not None, defaults),
        _of_timesteps(times, generation.steps, timesteps is not None),
        _of_maps(layer, timestep, generation.steps, defaults),
    )
    return Plan(kept, times, generation.steps, layer, timestep, head_groups, defaults, why)


def _of_layers(kept: tuple[int, ...], count: int, named: bool, defaults: ModelDefaults) -> str:
    listed = ", ".join(map(str, kept))
    if named:
        return f"Maps are kept of layers {listed}, as asked."
    if len(kept) == count:
        return f"Maps are kept of all {count} layers: the grid is small."
    expert = f" with the expert layer {defaults.expert_layer}" if defaults.expert_layer in kept else ""
    return f"Maps are kept of layers {listed}: evenly spaced{expert}, as a grid of this size needs much memory."


def _of_timesteps(times: tuple[int, ...], steps: int, named: bool) -> str:
    listed = ", ".join(map(str, sorted(times)))
    if named:
        return f"Timesteps {listed} of {steps} are kept, as asked."
    if len(times) == steps:
        return f"All {counted(steps, 'timestep')} are kept: the grid is small."
    return f"Timesteps {listed} of {steps} are kept: those that the paper reads, 8 and 28 of 28."


def _of_maps(layer: int | None, timestep: int, steps: int, defaults: ModelDefaults) -> str:
    when = f"at timestep {timestep} of {steps} (1 is the cleanest), mean over heads"
    if layer is not None and layer == defaults.expert_layer:
        return f"A word's map is of layer {layer}, the expert layer ({defaults.why}), {when}."
    if layer is not None:
        return f"A word's map is of layer {layer} {when}."
    lacking = "not among them" if defaults.expert_layer is not None else "not known for this model"
    return f"A word's map is the mean of these layers, as the expert layer is {lacking}, {when}."
