"""The causal test: edit one layer's attention, generate again from the same seeds, see what is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..attention.layout import Region, TokenStream
from ..configs import PerturbConfig
from ..edits import (
    BlurGrid,
    BlurText,
    Bypass,
    Edit,
    GroupKeys,
    HeadScale,
    Knockout,
    RemoveKeys,
    Scale,
    ScaleText,
    SelfAttend,
    Uniform,
)
from ..families import Pipeline, denoiser_of, family_of, heads_of
from ..metrics.inference import FEWEST, Lead, best
from ..metrics.verdicts import Form, in_words, lead_lines, listed
from ..pipelines.layers import chosen_layers
from ..probe.prefix import SharedPrefix
from ..probe.probe import Probe
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import AGAINST_PLAIN, paired_drops

_AMOUNTS = {"self-attend": 1.0, "scale": 0.5}
"""Amounts of edits whose default is not 0."""


@dataclass(frozen=True)
class Place:
    """Where one variant is edited: a layer, one of its heads, or some steps (``first`` to ``last``)."""

    layer: int
    head: int | None = None
    first: int | None = None
    last: int | None = None

    @property
    def name(self) -> str:
        """In files and in `ImageGrid.images`."""
        head = "" if self.head is None else f"head{self.head:02d}"
        return layer_name(self.layer) + head + ("" if self.first is None else f"step{self.first:02d}")

    @property
    def value(self) -> int | str:
        """In tables: the layer's number; "7.2" is head 2 of layer 7, "7: 0-6" its steps 0 to 6."""
        if self.head is not None:
            return f"{self.layer}.{self.head}"
        return self.layer if self.first is None else f"{self.layer}: {self.first}-{self.last}"

    @property
    def where(self) -> dict[str, Any]:
        """The edit's heads or steps."""
        if self.head is not None:
            return {"heads": [self.head]}
        return {} if self.first is None or self.last is None else {"steps": range(self.first, self.last + 1)}


def swept_places(pipe: Pipeline, config: PerturbConfig) -> list[Place]:
    """The places that the config edits, one by one; `ValueError` for heads of a model whose number of heads is not known."""
    layers = chosen_layers(pipe, config.layers)
    if config.by == "head":
        return [Place(layer, head) for layer in layers for head in range(heads_of(pipe, layer))]
    if config.by == "step":
        marks = sorted({config.generation.steps * quarter // 4 for quarter in range(5)})
        return [Place(layer, first=first, last=stop - 1) for layer in layers for first, stop in pairwise(marks)]
    return [Place(layer) for layer in layers]


def make_edit(config: PerturbConfig, place: Place) -> Edit:
    """The edit of one layer, or of a part of it, that the config asks for."""
    where: dict[str, Any] = {"batch": config.edit_branch, **place.where, **_edge_of(config)}
    layer, heads = place.layer, place.where.get("heads")
    amount = _AMOUNTS.get(config.edit, 0.0) if config.amount is None else config.amount
    if config.edit in ("bypass", "scale-text") and heads is not None:
        raise ValueError(f"perturb: {config.edit} changes a whole block, which has no heads; take --by layer or step")
    made: dict[str, Callable[[], Edit]] = {
        "scale": lambda: Scale(layer, amount, **where),
        "self-attend": lambda: SelfAttend(layer, amount, **where),
        "remove-sinks": lambda: RemoveKeys(layer, sinks=config.keys, **where),
        "remove-random": lambda: RemoveKeys(layer, random=config.keys, **where),
        "head-scale": lambda: HeadScale(layer, factor=amount, **{"heads": None, **where}),
        "group-keys": lambda: GroupKeys(layer, "image", delta=amount, **where),
        "bypass": lambda: Bypass(layer, **where),
        "scale-text": lambda: ScaleText(layer, amount, **where),
    }
    if config.edit in made:
        return made[config.edit]()
    if config.edit == "blur-text":
        if config.kernel is None:
            raise ValueError("perturb: blur-text needs a kernel size; the paper's is 5")
        return BlurText(layer, config.sigma, config.kernel, config.blur_edge, **where)
    if config.edit == "blur-grid":
        return BlurGrid(layer, config.sigma, config.kernel, config.blur_edge, **where)
    if config.edit == "uniform":
        return Uniform(layer, **where)
    return Knockout(layer, **where)


def _edge_of(config: PerturbConfig) -> dict[str, Any]:
    """The edge, and which reference images it means, as edits take them; nothing where the usual one is meant."""
    references = {"references": list(config.references)} if config.references else {}
    return {**({} if config.edge == Region.I2T else {"edge": config.edge}), **references}


def edited_part(config: PerturbConfig) -> str:
    """What is done, and where: the edit's name, with its edge if that is another than I2T."""
    numbers = f" of reference {listed([str(number) for number in config.references])}" if config.references else ""
    return config.edit + ("" if config.edge == Region.I2T else f", {config.edge}") + numbers


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
    _check_references(pipe, config)
    edits = {place: make_edit(config, place) for place in swept_places(pipe, config)}
    Probe(pipe, [], edits=list(edits.values()))  # bad layers fail before any work
    variants, prefix = [Variant(PLAIN, nullcontext)], SharedPrefix(pipe)
    for place, edit in edits.items():
        variants.append(Variant(place.name, partial(_edited, pipe, edit, place.layer, prefix), place.value))
    with RunFolder.for_study(out, "perturb", model, config).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress, axis=config.by
        )


@contextmanager
def _edited(pipe: Pipeline, edit: Edit, layer: int, prefix: SharedPrefix) -> Iterator[None]:
    """Inside, a layer is edited; in the first step the blocks before it are not computed again."""
    with prefix.before(layer), Probe(pipe, [], edits=[edit]):
        yield


def _check_references(pipe: Pipeline, config: PerturbConfig) -> None:
    """`ValueError` for an edge of reference images in a model that has none."""
    edge, family = Region(config.edge), family_of(denoiser_of(pipe))
    if TokenStream.REFERENCE in (edge.asking, edge.answering) and not family.references:
        raise ValueError(f"perturb: edge {edge} is of reference images, which {family.models} does not take")


def most_harmful(measured: pd.DataFrame, name: str) -> list[str]:
    """Which layer's edit takes most of a metric, and whether its lead is outside chance.

    ``measured`` is made by `measure_images`. The leader was picked after looking at all layers, which the test takes into
    account; below 5 prompts there is no verdict.
    """
    drops = paired_drops(measured, name)[1]
    kind = str(measured.columns[0])
    names = [f"{kind} {value}" for value in drops]
    lead, form = best(np.stack(list(drops.values()))), Form(3)
    value, interval = form(lead.value.mean), in_words(lead.value, form, "prompt")
    if len(names) == 1:
        return [f"{name}: {_one_layer(lead, names[0], name in AGAINST_PLAIN)}"]
    if lead.value.mean <= 0:
        return [f"{name}: no {kind} lowers it; the largest average drop of {len(names)} {kind}s is {value} {interval}."]
    if len(lead.tied) > 1:
        tied = listed([names[place].removeprefix(f"{kind} ") for place in lead.tied])
        return [f"{name}: editing any of {kind}s {tied} takes the same, {value} on average {interval}: a tie."]
    first = f"editing {names[lead.leader]} takes most, {value} on average {interval}."
    return [f"{name}: {line}" for line in (first, *lead_lines(lead, names, form, "prompt", kind))]


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
