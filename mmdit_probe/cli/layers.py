"""Which layers a command takes, and why: named, all, the model's default, or found."""

from __future__ import annotations

from typing import Any

import typer

from mmdit_probe.utils.text import shown


def chosen_layers(pipe: Any, layer: list[str] | None, all_layers: bool) -> tuple[int, ...]:
    """Layer numbers; says on standard error which layer was taken where the user named none.

    ``layer`` holds numbers or "auto", which asks `find_expert`.
    """
    from mmdit_probe.pipelines.defaults import model_defaults
    from mmdit_probe.probe.probe import Probe

    known = tuple(Probe(pipe, []).modules)
    if all_layers:
        if layer:
            raise ValueError("give --layer or --all-layers, not both")
        return known
    if not layer:
        defaults = model_defaults(pipe)
        if defaults.expert_layer is None:
            raise ValueError("no expert layer is known for this model: give --layer N, --layer auto or --all-layers")
        typer.echo(f"layer {defaults.expert_layer}: {defaults.why}", err=True)
        return (defaults.expert_layer,)
    return tuple(dict.fromkeys(_one(pipe, text, known) for text in layer))


def _one(pipe: Any, text: str, known: tuple[int, ...]) -> int:
    if text == "auto":
        from mmdit_probe.studies.expert_layer import find_expert

        found = find_expert(pipe)
        typer.echo(f"layer {found.layer}: {found.why}", err=True)
        return found.layer
    if not text.isdecimal() or int(text) not in known:
        raise ValueError(
            f"--layer: this model has layers {known[0]} to {known[-1]}, got {shown(text)}; 'auto' finds one"
        )
    return int(text)
