"""A greedy search for the heads whose perturbed guidance raises a score most, judged on prompts that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import FindHeadsConfig
from ..edits import SelfAttend
from ..families import Pipeline, heads_of
from ..metrics.image_metrics import ImageMetric
from ..metrics.inference import FEWEST, Interval, mean_interval
from ..metrics.verdicts import Form, in_words
from ..pipelines.layers import chosen_layers
from ..probe.guidance import PerturbedGuidance
from ..storage.records import FORMAT
from ..storage.runs import RunFolder
from ..utils.distributed import leave_to_first
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import measure_images

Head = tuple[int, int]
"""A layer and a head of it."""
_CHOSEN = "chosen"


@dataclass(frozen=True, eq=False)
class FoundHeads:
    """What the search found.

    Attributes:
        heads: those chosen, in order; empty if none raises the score.
        rounds: one row for each ``round`` and candidate ``head``: its mean ``gain`` over the prompts of the search.
        gain: what the chosen heads together gain on the held-out prompts.
        grid: the held-out prompts' images, plain and guided by the chosen heads; None if there are none.
    """

    heads: tuple[Head, ...]
    rounds: pd.DataFrame
    gain: Interval
    grid: ImageGrid | None


def split_prompts(prompts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every other prompt for the search, the rest held out; `ValueError` for fewer than two."""
    if len(prompts) < 2:
        raise ValueError(f"find-heads: give at least 2 prompts, half of which are held out, got {len(prompts)}")
    return tuple(prompts[::2]), tuple(prompts[1::2])


def run_find_heads(
    pipe: Pipeline,
    config: FindHeadsConfig,
    metric: ImageMetric,
    out: Path,
    model: str,
    progress: Progress | None = None,
) -> FoundHeads:
    """Add the head that raises the score most, round by round, as long as one does; an interrupted run continues.

    Each round's gains are kept with its images: where several processes share the run the first one scores them.

    The guidance is ``eps + scale (eps - eps_perturbed)``, the perturbation `SelfAttend` of the chosen heads (HeadHunter, arXiv
    2506.10978).
    """
    search, held_out = split_prompts(config.prompts)
    config = replace(config, layers=chosen_layers(pipe, config.layers))
    candidates = [
        (layer, head) for layer in chosen_layers(pipe, config.layers) for head in range(heads_of(pipe, layer))
    ]
    chosen: list[Head] = []
    rows: list[dict[str, object]] = []
    best = 0.0
    with RunFolder.for_study(out, "find-heads", model, config).open() as run:

        def tried(variants: list[Variant]) -> xr.Dataset:
            grid = _images(pipe, config, run, [Variant(PLAIN, nullcontext), *variants], search, progress)
            gains = _gains(grid, metric)
            value = ("head", "prompt", "seed"), np.stack(list(gains.values()))
            return xr.Dataset({"gain": value}, {"head": list(gains)}, {"format": FORMAT})

        for number in range(min(config.most, len(candidates))):
            left = [head for head in candidates if head not in chosen]
            variants = [
                _guided(pipe, config, [*chosen, head], f"round{number}-{_name(head)}", _value(head)) for head in left
            ]
            gains = run.decision(f"round{number}-gains", partial(tried, variants))
            mean = {head: float(gains["gain"].sel(head=_value(head)).values.mean()) for head in left}
            rows += [{"round": number, "head": _value(head), "gain": mean[head]} for head in left]
            first = max(left, key=lambda head: mean[head])
            if mean[first] <= best:
                break
            best = mean[first]
            chosen.append(first)
        if not chosen:
            leave_to_first()
            return FoundHeads((), pd.DataFrame(rows), mean_interval(np.array([])), None)
        value = ", ".join(map(_value, chosen))
        both = [Variant("held-out-plain", nullcontext), _guided(pipe, config, chosen, "held-out-chosen", value)]
        made = _images(pipe, config, run, both, held_out, progress).images
    images = {PLAIN: made["held-out-plain"], _CHOSEN: made["held-out-chosen"]}
    grid = ImageGrid(held_out, config.seeds, images, "head", {_CHOSEN: value})
    return FoundHeads(tuple(chosen), pd.DataFrame(rows), mean_interval(_gains(grid, metric)[value]), grid)


def _images(
    pipe: Pipeline,
    config: FindHeadsConfig,
    run: RunFolder,
    variants: list[Variant],
    prompts: tuple[str, ...],
    progress: Progress | None,
) -> ImageGrid:
    settings = config.seeds, config.batch, config.generation
    return generate_grid(pipe, run, variants, prompts, *settings, progress, axis="head")


def _guided(pipe: Pipeline, config: FindHeadsConfig, heads: Sequence[Head], name: str, value: str) -> Variant:
    layers = sorted({layer for layer, _ in heads})
    edits = [SelfAttend(own, config.amount, heads=[head for layer, head in heads if layer == own]) for own in layers]
    guidance = PerturbedGuidance(pipe, edits, config.scale)
    return Variant(name, lambda seed: guidance, value)


def _gains(grid: ImageGrid, metric: ImageMetric) -> dict[str, np.ndarray]:
    """By head, (prompts, seeds): how much the score is above the plain image's."""
    measured = measure_images(grid, {"score": metric})
    wide = {
        head: own.pivot(index="number", columns="seed", values="score").to_numpy()
        for head, own in measured.groupby("head")
    }
    return {head: values - wide[PLAIN] for head, values in wide.items() if head != PLAIN}


def _name(head: Head) -> str:
    return f"layer{head[0]:02d}head{head[1]:02d}"


def _value(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def found_lines(found: FoundHeads, config: FindHeadsConfig) -> list[str]:
    """Which heads were chosen on which prompts, and what they gain on the held-out ones."""
    search, held_out = split_prompts(config.prompts)
    tried = f"{config.score} on {len(search)} prompts"
    if not found.heads:
        return [f"no head's guidance raises {tried}."]
    form = Form(3, sign=True)
    names = ", ".join(map(_value, found.heads))
    last = found.rounds[found.rounds["head"] == _value(found.heads[-1])]["gain"].iloc[-1]
    sure = "no verdict" if found.gain.n < FEWEST else "outside chance" if found.gain.low > 0 else "within chance"
    return [
        f"heads {names} (layer.head), chosen for {form(last)} {tried} among which the choice was made.",
        f"on {len(held_out)} held-out prompts: {form(found.gain.mean)} {in_words(found.gain, form, 'prompt')}: {sure}.",
    ]
