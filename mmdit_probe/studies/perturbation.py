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
from ..metrics.inference import FEWEST, Lead, best
from ..metrics.verdicts import Form, in_words, lead_lines, listed
from ..pipelines.layers import chosen_layers
from ..probe.probe import Probe
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import AGAINST_PLAIN, paired_drops


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
    """The name of a layer's images in files and in `ImageGrid.images`."""
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
        variants.append(Variant(layer_name(layer), partial(Probe, pipe, [], edits=[edit]), layer))
    with RunFolder.for_study(out, "perturb", model, config).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress, axis="layer"
        )


def most_harmful(measured: pd.DataFrame, name: str) -> list[str]:
    """Which layer's edit takes most of a metric, and whether its lead is outside chance.

    ``measured`` is made by `measure_images`. The leader was picked after looking at all layers, which the test takes into
    account; below 5 prompts there is no verdict.
    """
    drops = paired_drops(measured, name)[1]
    names = [f"layer {layer}" for layer in drops]
    lead, form = best(np.stack(list(drops.values()))), Form(3)
    value, interval = form(lead.value.mean), in_words(lead.value, form, "prompt")
    if len(names) == 1:
        return [f"{name}: {_one_layer(lead, names[0], name in AGAINST_PLAIN)}"]
    if lead.value.mean <= 0:
        return [f"{name}: no layer lowers it; the largest average drop of {len(names)} layers is {value} {interval}."]
    if len(lead.tied) > 1:
        tied = listed([names[place].removeprefix("layer ") for place in lead.tied])
        return [f"{name}: editing any of layers {tied} takes the same, {value} on average {interval}: a tie."]
    first = f"editing {names[lead.leader]} takes most, {value} on average {interval}."
    return [f"{name}: {line}" for line in (first, *lead_lines(lead, names, form, "prompt", "layer"))]


def _one_layer(lead: Lead, layer: str, against_plain: bool) -> str:
    """What one layer's edit takes; a metric that compares with plain falls by any change, which needs no test."""
    value, form = lead.value, Form(3)
    said = f"{form(value.mean)} on average {in_words(value, form, 'prompt')}"
    if against_plain:
        return f"editing {layer} takes {said}."
    if value.mean <= 0:
        return f"editing {layer} does not lower it: drop {said}."
    if value.n < FEWEST:
        return f"editing {layer} takes {said}: no verdict."
    return f"editing {layer} takes {said}: {'outside' if value.low > 0 else 'within'} chance."
