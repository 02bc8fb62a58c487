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
from ..edits import Edit, HeadScale, Patch
from ..families import Pipeline, denoiser_of, family_of, heads_of, text_parts_of
from ..metrics.inference import FEWEST, Lead, best
from ..metrics.verdicts import Form, in_words, lead_lines, listed
from ..pipelines.defaults import text_length
from ..pipelines.generation import generation_arguments
from ..pipelines.layers import chosen_layers
from ..pipelines.prompts import find_words
from ..probe.prefix import SharedPrefix
from ..probe.probe import Probe
from ..probe.states import record_states
from ..storage.digests import digest
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .chosen_edit import make_edit
from .given_places import given_regions, mask_files
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import AGAINST_PLAIN, paired_drops


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
    _check_words(pipe, config)
    variants, prefix = [Variant(PLAIN, nullcontext)], SharedPrefix(pipe)
    for place, edit in _edits(pipe, config).items():
        variants.append(Variant(place.name, partial(_edited, pipe, edit, place.layer, prefix), place.value))
    files = mask_files([*config.region, *([] if config.place is None else [config.place])])
    masks = {"mask_content": digest(files)} if files else {}
    with RunFolder.for_study(out, "perturb", model, config, **masks).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress, axis=config.by
        )


def _edits(pipe: Pipeline, config: PerturbConfig) -> dict[Place, Callable[[int], Edit]]:
    """The edit of each place, by seed; what the model does not have fails here, before any work."""
    places = swept_places(pipe, config)
    if config.edit == "patch":
        if config.what == "block" and config.by == "head":
            raise ValueError("perturb: a block's residual streams have no heads; take --by layer or step")
        Probe(pipe, [], edits=[HeadScale(place.layer, factor=1, heads=None) for place in places])
        return {place: partial(_patched, pipe, config, place) for place in places}
    edits = {place: make_edit(config, place.layer, place.where) for place in places}
    Probe(pipe, [], edits=list(edits.values()))
    return {place: partial(_of_any_seed, edit) for place, edit in edits.items()}


def _of_any_seed(edit: Edit, seed: int) -> Edit:
    return edit


def _patched(pipe: Pipeline, config: PerturbConfig, place: Place, seed: int) -> Edit:
    """The source's states at a place, from the noise of ``seed``."""
    arguments = generation_arguments(pipe, config.generation)
    arguments.pop("generator", None)  # of the settings' own seed
    steps = place.where.get("steps", range(config.generation.steps))
    kept = {"layers": [place.layer], "steps": steps, "tokens": config.tokens, "seed": seed}
    states = record_states(pipe, config.source or "", what=config.what, **kept, **arguments)
    return Patch(states, place.layer, **{"batch": config.edit_branch, **place.where})


@contextmanager
def _edited(pipe: Pipeline, edit: Callable[[int], Edit], layer: int, prefix: SharedPrefix, seed: int) -> Iterator[None]:
    """Inside, a layer is edited; in the first step the blocks before it are not computed again."""
    own = edit(seed)
    with prefix.before(layer), Probe(pipe, [], edits=[own]):
        yield


def _check_words(pipe: Pipeline, config: PerturbConfig) -> None:
    """`ValueError` for words that a prompt does not have; of models whose tokens are known."""
    if config.edit == "patch":
        if config.source is None:
            raise ValueError('perturb: patch needs the prompt whose states are written, --patch-from "PROMPT"')
        if config.words or config.edge != Region.I2T:
            raise ValueError("perturb: patch writes whole tokens; leave words and edge out, tokens says which")
    parts = text_parts_of(pipe, text_length(pipe, config.generation.max_sequence_length))
    words = [*config.words, *given_regions(config.region)]
    for prompt in config.prompts if parts and words else ():
        find_words(parts, prompt, words)
    if parts and config.source is not None and config.tokens not in ("all", "image", "text"):
        find_words(parts, config.source, [config.tokens])


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
