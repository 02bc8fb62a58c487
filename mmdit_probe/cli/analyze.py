"""mmdit-probe analyze."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmdit_probe.configs import AnalyzeConfig, GenerationConfig
from mmdit_probe.utils.text import checked_text

from . import options as common

TIMESTEPS = ",".join(map(str, AnalyzeConfig.timesteps))


def analyze(
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    model: common.Model = "tiny-sd3",
    words: Annotated[
        str | None, typer.Option(help="Words to map, separated by commas; every content word if not given.")
    ] = None,
    image: common.ImageLike = None,
    longest: common.Longest = None,
    layers: common.Layers = "all",
    timesteps: common.Timesteps = TIMESTEPS,
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    seed: common.Seed = GenerationConfig.seed,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: common.Out = common.RESULTS / "analyze",
    as_json: common.AsJson = False,
) -> None:
    """All of it in one pass: attention budget, value norms, heads, principal components and word maps of one image.

    Writes a figure and a table for each study, image.png, and one record, analyze.nc, that mmdit-probe diff compares.
    """
    from mmdit_probe.studies.overview import measure_everything, summary, tables
    from mmdit_probe.studies.word_maps import chosen_words

    config = AnalyzeConfig(
        checked_text("prompt", prompt),
        () if words is None else chosen_words(words),
        common.layer_numbers(layers),
        common.numbers("--timesteps", timesteps),
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
    )
    common.lock_output(out)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, [prompt], max_sequence_length)
    recording = measure_everything(pipe, config, common.input_image(image, longest, pipe))
    record = recording.record.assign_attrs(model=source.label)
    found = tables(record)
    files = _write(record, recording.image, found, out)
    plain = {name: json.loads(table.to_json(orient="records")) for name, table in found.items()}
    common.finish(summary(found), files, as_json, tables=plain)


def _write(record: Any, image: Any, found: dict[str, Any], out: Path) -> list[Path]:
    from mmdit_probe.figures.budget import budget_figure
    from mmdit_probe.figures.heads import heads_figure
    from mmdit_probe.figures.norms import norms_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.storage.runs import write_text

    from .pages import map_pages, pca_pages

    return [
        *save_figure(budget_figure(found["attention_budget"]), out / "attention_budget"),
        *save_figure(norms_figure(found["value_norms"]), out / "value_norms"),
        *save_figure(heads_figure(found["heads"]), out / "heads"),
        *pca_pages(record, image, out),
        *(map_pages(record, image, out) if "word_map" in record else []),
        *(write_text(out / f"{name}.csv", table.to_csv(index=False)) for name, table in found.items()),
        save_record(record, out / "analyze.nc"),
        save_image(image, out / "image.png"),
    ]
