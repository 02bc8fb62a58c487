"""A model before and after MAGNET: its masks, the layer's attention, and its images (Seg4Diff, Tables 1 to 3)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import CompareConfig, EvaluateConfig
from ..configs.generation import seeded
from ..configs.segmentation import Task
from ..datasets.labeled import LabeledImages
from ..evaluation.run import run_evaluation
from ..evaluation.tables import MATCHING_NAMES
from ..families import Pipeline
from ..metrics.bootstrap import bootstrap_weights
from ..metrics.inference import FEWEST, Interval, drawn_interval
from ..metrics.iou import mean_iou
from ..metrics.verdicts import Form, counted, in_words
from ..readouts.region_mass import RegionMass
from ..readouts.value_norms import ValueNorms
from ..storage.runs import RunFolder
from ..studies.image_grid import PLAIN, ImageGrid, Variant, generate_grid
from ..studies.paired_metrics import drop_table
from ..studies.recording import record_generated, run_prompts
from ..studies.value_norms import norms_table
from ..utils.distributed import leave_to_first, stage
from ..utils.progress import Progress
from .lora import without_lora

AFTER = "magnet"
"""Name of the variant with the LoRA; the one without it is "plain"."""
TASKS: tuple[Task, ...] = ("open-vocabulary", "unsupervised")


def before_and_after(pipe: Pipeline) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """The contexts in which a pipeline that was loaded with its LoRA computes without it ("before") and with it ("after")."""
    return {"before": lambda: without_lora(pipe), "after": nullcontext}


def compare_masks(
    pipe: Pipeline, images: LabeledImages, layer: int, config: CompareConfig, out: Path, model: str, progress: Progress
) -> pd.DataFrame:
    """mIoU of both tasks before and after, one row per task, way of matching and timestep.

    Timesteps are of the run's sampling steps, as everywhere in the comparison. ``gain`` is after minus before, ``low`` and
    ``high`` are its 95% interval over the ``n`` images, drawn with replacement, the same ones before and after; NaN below 5.
    The mIoU is the mean over the classes of the ground truth, see `metrics.iou.mean_iou`.
    """
    parts: dict[str, dict[str, xr.DataArray]] = {task: {} for task in TASKS}
    batch = min(50, len(images.samples))
    each = -(-len(images.samples) // batch)
    for number, task in enumerate(TASKS):
        settings = EvaluateConfig(
            dataset=config.dataset,
            task=task,
            layers=(layer,),
            timesteps=config.chosen_timesteps,
            steps=config.generation.steps,
            batch=batch,
            seed=config.seeds[0],
            limit=config.limit,
            max_sequence_length=config.generation.max_sequence_length,
        )
        for side, (name, context) in enumerate(before_and_after(pipe).items()):
            start = (2 * number + side) * each

            def shown(done: int, total: int, start: int = start) -> None:
                progress(start + done, 4 * each)

            with stage(), context():
                folder = out / f"masks-{task}-{name}"
                batches = list(run_evaluation(pipe, images, settings, folder, model, shown))
                parts[task][name] = xr.concat([part["counts"] for part in batches], "image").isel(layer=0, head=0)
    leave_to_first()
    return pd.concat([mask_gains(task, **counts) for task, counts in parts.items()], ignore_index=True)


def mask_gains(task: str, before: xr.DataArray, after: xr.DataArray) -> pd.DataFrame:
    """`compare_masks` of one task, from both counts (image, matching, timestep, count, class)."""
    rows = []
    for matching in before["matching"].values:
        for timestep in before["timestep"].values:
            chosen = {"matching": matching, "timestep": timestep}
            old, new = (side.sel(chosen).transpose("image", "count", "class").values for side in (before, after))
            gain, low, high, n = miou_gain(old, new)
            means = {"before": float(mean_iou(old.sum(0))), "after": float(mean_iou(new.sum(0)))}
            sigma = float(before["sigma"].sel(timestep=timestep))
            found = {"n": n, **means, "gain": gain, "low": low, "high": high}
            rows.append({"task": task, **chosen, "sigma": sigma, **found})
    return pd.DataFrame(rows)


def miou_gain(before: np.ndarray, after: np.ndarray) -> Interval:
    """The gain in mIoU, from counts (image, 3, class), with its 95% interval over images: counts are summed, not averaged."""
    weights = bootstrap_weights(len(before))
    drawn = [mean_iou(np.tensordot(weights, counts.astype(float), 1)) for counts in (before, after)]
    gain = float(mean_iou(after.sum(0)) - mean_iou(before.sum(0)))
    return drawn_interval(gain, drawn[1] - drawn[0], len(before))


def compare_attention(pipe: Pipeline, config: CompareConfig, out: Path, model: str, progress: Progress) -> pd.DataFrame:
    """I2T mass and value norms of every layer, before and after, averaged over prompts and timesteps.

    One row per side and layer: ``n`` prompts; ``i2t`` is the mass in [0, 1]; ``text_to_image`` and ``prompt_to_image`` are
    ratios of mean value norms, of text and of words to image.
    """
    generation = seeded(config.generation, config.seeds[0])
    records: dict[str, xr.Dataset] = {}
    for number, (name, context) in enumerate(before_and_after(pipe).items()):
        folder = RunFolder.for_study(out / f"attention-{name}", "magnet-attention", model, config, side=name)

        def measure(prompt: str) -> xr.Dataset:
            readouts = [RegionMass(), ValueNorms()]
            return record_generated(pipe, prompt, readouts, config.chosen_timesteps, generation).record

        def shown(done: int, total: int, start: int = number) -> None:
            progress(start * total + done, 2 * total)

        with stage(), context():
            records[name] = run_prompts(measure, config.prompts, folder, shown)
    leave_to_first()
    tables = []
    for name, record in records.items():
        mass = record["region_mass"].sel(region="I2T").mean(("prompt", "timestep", "head"))
        norms = norms_table(record).groupby("layer")[["text_to_image", "prompt_to_image"]].mean()
        tables.append(norms.assign(i2t=mass.to_series(), side=name, n=len(config.prompts)).reset_index())
    return pd.concat(tables, ignore_index=True)[["side", "layer", "n", "i2t", "text_to_image", "prompt_to_image"]]


def compare_images(pipe: Pipeline, config: CompareConfig, out: Path, model: str, progress: Progress) -> ImageGrid:
    """Images of the same prompts and seeds without the LoRA ("plain") and with it ("magnet"); an interrupted run continues."""
    variants = [Variant(PLAIN, lambda seed: without_lora(pipe)), Variant(AFTER, nullcontext, "after")]
    own = replace(config, dataset="", limit=None)  # the images do not depend on what the masks are compared on
    with RunFolder.for_study(out / "images", "magnet-images", model, own).open() as run:
        return generate_grid(
            pipe, run, variants, config.prompts, config.seeds, config.batch, config.generation, progress, axis="side"
        )


def metric_gains(measured: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """One row for each metric: ``n`` prompts, mean before and after, and the gain, averaged over seeds and prompts.

    ``low`` and ``high`` are the gain's 95% interval over prompts, NaN below 5 prompts; it is paired by prompt and seed.
    """
    table = drop_table(measured, names).set_index(["metric", "side"])
    rows = []
    for name in names:
        before, after = table.loc[(name, "before")], table.loc[(name, "after")]
        gain, low, high, n = -Interval(after["drop"], after["low"], after["high"], int(after["n"]))
        means = {"before": before["mean"], "after": after["mean"]}
        rows.append({"metric": name, "n": n, **means, "gain": gain, "low": low, "high": high})
    return pd.DataFrame(rows)


def summary(masks: pd.DataFrame, attention: pd.DataFrame, metrics: pd.DataFrame, layer: int) -> list[str]:
    """Lines that say what changed, and whether the change is outside chance."""
    lines = [
        f"{row['task']}, {MATCHING_NAMES[row['matching']]}, timestep {row['timestep']} (sigma {row['sigma']:.3f}): mIoU "
        f"{100 * row['before']:.1f} -> {100 * row['after']:.1f}, {_sure(row, Form(1, 100, sign=True), 'image')}."
        for _, row in masks.iterrows()
    ]
    one = attention[attention["layer"] == layer].set_index("side")
    before, after = one.loc["before"], one.loc["after"]
    lines.append(
        f"layer {layer}: an image token gives text {before['i2t']:.1%} -> {after['i2t']:.1%} of its attention; text / image "
        f"value norm {before['text_to_image']:.2f} -> {after['text_to_image']:.2f}; averages over heads, timesteps and "
        f"prompts (n = {counted(int(before['n']), 'prompt')}), no test."
    )
    for _, row in metrics.iterrows():
        sure = _sure(row, Form(3, sign=True), "prompt")
        lines.append(f"{row['metric']}, average: {row['before']:.3f} -> {row['after']:.3f}, {sure}.")
    return lines


def _sure(row: Any, form: Form, unit: str) -> str:
    gain = Interval(row["gain"], row["low"], row["high"], int(row["n"]))
    said = f"{form(gain.mean)} {in_words(gain, form, unit)}"
    if gain.n < FEWEST:
        return f"{said}: no verdict"
    return f"{said}: {'outside' if gain.excludes_zero else 'within'} chance"
