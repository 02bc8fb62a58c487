"""Perturbed guidance at several scales: images and what they gain."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..configs import GuideConfig
from ..edits import BlurText
from ..families import Pipeline
from ..pipelines.layers import chosen_layers
from ..probe.guidance import PerturbedGuidance
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .image_grid import PLAIN, ImageGrid, Variant, generate_grid
from .paired_metrics import drop_table


def scale_name(scale: float) -> str:
    """The name of a scale's variant."""
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
    scales = [scale for scale in config.scales if scale]
    variants = [Variant(PLAIN, nullcontext), *(_guided(pipe, edit, scale, config.batched) for scale in scales)]
    with RunFolder.for_study(out, "guide", model, config).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress
        )


def _guided(pipe: Pipeline, edit: BlurText, scale: float, batched: bool) -> Variant:
    """A scale's images; made before any work, so that what can't be guided is refused."""
    guidance = PerturbedGuidance(pipe, [edit], scale, batched=batched)
    return Variant(scale_name(scale), lambda: guidance)


def gain_table(measured: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Like `drop_table` with the sign turned: what each scale gains over plain, with its 95% interval."""
    table = drop_table(measured, names)
    return table.assign(drop=0.0 - table["drop"], low=0.0 - table["high"], high=0.0 - table["low"])


def gain_lines(table: pd.DataFrame) -> list[str]:
    """One line for each metric and scale."""
    rows = table[table["variant"] != PLAIN]
    return [
        f"{row['metric']}, {row['variant']}: {row['drop']:+.3f} over plain (95% interval {row['low']:+.3f} to {row['high']:+.3f})."
        for _, row in rows.iterrows()
    ]
