"""mmdit-probe value-norms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs import GenerationConfig, ValueNormsConfig

from . import options as common

TIMESTEPS = ",".join(map(str, ValueNormsConfig.timesteps))


def value_norms(
    model: common.Model = "tiny-sd3",
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    steps: common.Steps = GenerationConfig.steps,
    timesteps: common.Timesteps = TIMESTEPS,
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
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "value-norms",
    as_json: common.AsJson = False,
) -> None:
    """How long the value vectors of image tokens, all text tokens and words are, per layer and head.

    Generates an image for each prompt and reads the value projections of the prompt's half of classifier-free
    guidance. Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes.

    Writes value_norms.pdf / .png and value_norms_heads.pdf / .png (Seg4Diff, Fig. 4 and 28), value_norms.csv,
    value_norms_heads.csv and value_norms.nc.
    """
    from mmdit_probe.figures.norms import norm_heads_figure, norms_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.value_norms import heads_table, norms_table, run_norms, summary

    config = ValueNormsConfig(
        common.chosen_prompts(model, prompt, prompts),
        common.numbers("--timesteps", timesteps),
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
    )
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, config.prompts, max_sequence_length)
    with common.Bar("prompts", as_json) as bar:
        record = run_norms(pipe, config, out, source.label, bar.update)
    table, heads = norms_table(record), heads_table(record)
    files = [
        *save_figure(norms_figure(table), out / "value_norms"),
        *save_figure(norm_heads_figure(heads), out / "value_norms_heads"),
        write_text(out / "value_norms.csv", table.to_csv(index=False)),
        write_text(out / "value_norms_heads.csv", heads.to_csv(index=False)),
        save_record(record, out / "value_norms.nc"),
    ]
    common.finish(summary(table), files, as_json, table=json.loads(table.to_json(orient="records")))
