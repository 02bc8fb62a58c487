"""Which layers a command takes, and why: named, all, the model's known expert layer, or one that is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdit_probe.configs import Layers, ModelConfig

from .terminal import tell

if TYPE_CHECKING:
    from mmdit_probe.families import Pipeline


def check_layers(layers: Layers | None, model: ModelConfig) -> None:
    """`ValueError` if a layer number does not exist, by the model's config alone: before its weights are loaded."""
    from mmdit_probe.pipelines.layer_count import layer_count

    if isinstance(layers, tuple):
        count = layer_count(model.model, model.revision)
        if count is not None:
            _check(layers, tuple(range(count)))


def resolve_layers(pipe: Pipeline, layers: Layers, many: bool = True) -> tuple[int, ...]:
    """Layer numbers; says on standard error which layer was taken if the user named none.

    ``auto`` asks `find_expert`, ``expert`` the model's defaults. ``many``: whether the command takes several layers, for the
    error message.
    """
    from mmdit_probe.pipelines.layers import layer_numbers

    known = layer_numbers(pipe)
    if layers == "all":
        return known
    if layers == "expert":
        return (_expert(pipe, many),)
    if layers == "auto":
        return (_found(pipe),)
    _check(layers, known)
    return layers


def resolve_layer(pipe: Pipeline, layers: Layers) -> int:
    """The one layer of a command that reads one."""
    found = resolve_layers(pipe, layers, many=False)
    if len(found) != 1:
        raise ValueError(f"--layer: this command takes one layer, got {len(found)} of them")
    return found[0]


def _expert(pipe: Pipeline, many: bool) -> int:
    from mmdit_probe.pipelines.defaults import model_defaults

    defaults = model_defaults(pipe)
    if defaults.expert_layer is None:
        known = "--layer N, or --layer auto, which finds one" + ", or --layers all" * many
        raise ValueError(f"no expert layer is known for this model: give {known}")
    tell(f"layer {defaults.expert_layer}: {defaults.why}")
    return defaults.expert_layer


def _found(pipe: Pipeline) -> int:
    from mmdit_probe.studies.expert_layer import find_expert

    found = find_expert(pipe)
    tell(f"layer {found.layer}: {found.why}")
    return found.layer


def _check(layers: tuple[int, ...], known: tuple[int, ...]) -> None:
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise ValueError(
            f"--layers: this model has layers {known[0]} to {known[-1]}, got {', '.join(map(str, unknown))}; "
            f"'auto' finds one"
        )
