"""Perturbed guidance at several scales: images and what they gain."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..configs import GuideConfig
from ..edits import BlurText
from ..families import Pipeline
from ..metrics.inference import Lead, best, mean_interval
from ..metrics.verdicts import Form, few, in_words, listed
from ..pipelines.layers import chosen_layers
from ..probe.guidance import PerturbedGuidance
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import drop_table, paired_drops


def scale_name(scale: float) -> str:
    """The name of a scale's images in files and in `ImageGrid.images`."""
    return f"scale{scale:g}"


def run_guidance(
    pipe: Pipeline, config: GuideConfig, out: Path, model: str, progress: Progress | None = None
) -> ImageGrid:
    """Plain images and those of every scale but 0, which is plain; an interrupted run continues."""
    kernel = config.kernel
    if kernel is None:
        raise ValueError("guide: the blur needs a kernel size; the paper's is 5")
    config = replace(config, layers=chosen_layers(pipe, config.layers))
    edit = BlurText(chosen_layers(pipe, config.layers), config.sigma, kernel, config.blur_edge)
    scales = [scale for scale in dict.fromkeys(config.scales) if scale]
    variants = [Variant(PLAIN, nullcontext), *(_guided(pipe, edit, scale, config.batched) for scale in scales)]
    with RunFolder.for_study(out, "guide", model, config).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress, axis="scale"
        )


def _guided(pipe: Pipeline, edit: BlurText, scale: float, batched: bool) -> Variant:
    """A scale's images; made before any work, so that what can't be guided is refused."""
    guidance = PerturbedGuidance(pipe, [edit], scale, batched=batched)
    return Variant(scale_name(scale), lambda seed: guidance, scale)


def gain_table(measured: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """What the images of each scale gain of each metric over plain ones, averaged over seeds and prompts.

    One row for each ``scale`` (0 is plain) and metric: ``n`` prompts, ``mean``, ``gain``, its 95% interval ``low`` to
    ``high`` over prompts (NaN below 5), and ``p``, the chance of such a gain without an effect, the picking of the best
    scale included.
    """
    mirrored = measured.assign(**{name: -measured[name] for name in names})
    table = drop_table(mirrored, names).rename(columns={"drop": "gain"})
    return table.assign(mean=0.0 - table["mean"])


def gain_lines(measured: pd.DataFrame, names: list[str]) -> list[str]:
    """For each metric what each scale gains, and whether the best of them gains outside chance."""
    lines = []
    for name in names:
        gains = {scale: -drop for scale, drop in paired_drops(measured, name)[1].items()}
        if not gains:
            continue
        spoken, form = [f"scale {scale:g}" for scale in gains], Form(3, sign=True)
        for scale, gain in zip(spoken, gains.values(), strict=True):
            found = mean_interval(gain)
            lines.append(
                f"{name}, {scale}: {form(found.mean)} over plain on average {in_words(found, form, 'prompt')}."
            )
        lines.append(f"{name}: {_best_scale(best(np.stack(list(gains.values())), 'zero'), spoken)}")
    return lines


def _best_scale(lead: Lead, names: list[str]) -> str:
    gain, n = Form(3, sign=True)(lead.value.mean), lead.value.n
    if lead.value.mean <= 0:
        return "no scale raises it." if len(names) > 1 else f"{names[0]} does not raise it."
    if lead.outside is None:
        return f"no verdict: {few(n, 'prompt')}."
    sure = f"{'outside' if lead.outside else 'within'} chance"
    if len(names) == 1:
        return f"the gain of {names[0]} is {sure} (n = {n} prompts)."
    if len(lead.tied) > 1:
        return (
            f"{listed([names[place] for place in lead.tied])} tie; their gain, as the best of {len(names)}, is {sure}."
        )
    best_of = f"the gain of {names[lead.leader]}, {gain}, as the best of {len(names)}, is {sure} (n = {n} prompts)"
    if not lead.outside or lead.second is None or lead.apart:
        return f"{best_of}."
    return f"{best_of}; it is not told apart from {names[lead.second]}."
