"""The causal test: edit one layer's attention, generate again from the same seeds, see what is lost."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..configs import PerturbConfig
from ..edits import BlurGrid, BlurText, Edit, Knockout, Uniform
from ..families import Pipeline
from ..metrics.bootstrap import bootstrap_mean
from ..pipelines.layers import chosen_layers
from ..probe.probe import Probe
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import paired_drops


def make_edit(config: PerturbConfig, layer: int) -> Edit:
    """The edit of one layer that the config asks for."""
    where: dict[str, Any] = {"batch": config.edit_branch}
    if config.edit == "blur-text":
        if config.kernel is None:
            raise ValueError("perturb: blur-text needs a kernel size; the paper's is 5")
        return BlurText(layer, config.sigma, config.kernel, config.blur_edge, **where)
    if config.edit == "blur-grid":
        return BlurGrid(layer, config.sigma, config.kernel, config.blur_edge, **where)
    if config.edit == "uniform":
        return Uniform(layer, **where)
    return Knockout(layer, **where)


def layer_name(layer: int) -> str:
    """The name of a layer's variant."""
    return f"layer{layer:02d}"


def run_perturbation(
    pipe: Pipeline, config: PerturbConfig, out: Path, model: str, progress: Progress | None = None
) -> ImageGrid:
    """Plain and edited images of every prompt and seed; an interrupted run continues."""
    config = replace(config, layers=chosen_layers(pipe, config.layers))
    if not config.layers:
        raise ValueError("perturb: give at least one layer")
    edits = {layer: make_edit(config, layer) for layer in chosen_layers(pipe, config.layers)}
    Probe(pipe, [], edits=list(edits.values()))  # bad layers fail before any work
    variants = [Variant(PLAIN, nullcontext)]
    for layer, edit in edits.items():
        variants.append(Variant(layer_name(layer), partial(Probe, pipe, [], edits=[edit])))
    with RunFolder.for_study(out, "perturb", model, config).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress
        )


def most_harmful(measured: pd.DataFrame, name: str) -> list[str]:
    """Which layer's edit takes most of a metric, and whether its lead over the next is outside the bootstrap interval."""
    layers = [variant for variant in measured["variant"].unique() if variant != PLAIN]
    drops = {variant: paired_drops(measured, variant, name) for variant in layers}
    ranked = sorted(layers, key=lambda variant: -np.nanmean(drops[variant]))
    mean, low, high = bootstrap_mean(drops[ranked[0]])
    lines = [f"{name}: editing {_spoken(ranked[0])} takes most, {mean:.3f} (95% interval {low:.3f} to {high:.3f})."]
    if len(ranked) > 1:
        lead, low, high = bootstrap_mean(drops[ranked[0]] - drops[ranked[1]])
        sure = "outside chance" if low > 0 else "within chance"
        lines.append(
            f"{name}: its lead over {_spoken(ranked[1])} is {lead:.3f} (95% interval {low:.3f} to {high:.3f}): {sure}."
        )
    return lines


def _spoken(variant: str) -> str:
    return f"layer {int(variant.removeprefix('layer'))}"
