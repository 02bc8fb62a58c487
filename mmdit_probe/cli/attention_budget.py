"""mmdit-probe attention-budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs import BudgetConfig, GenerationConfig

from . import options as common


def attention_budget(
    model: common.Model = "tiny-sd3",
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    steps: common.Steps = GenerationConfig.steps,
    timesteps: Annotated[
        str, typer.Option(help="Timesteps to read, counted from the clean end: 8 of 28 is the 21st step.")
    ] = ",".join(map(str, BudgetConfig.timesteps)),
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
    / "attention-budget",
    as_json: common.AsJson = False,
) -> None:
    """Who attends to whom: I2I, I2T, T2I and T2T attention per layer, against uniform attention.

    Generates an image for each prompt and reads the attention of the prompt's half of classifier-free guidance.
    Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes, which is what tiny-sd3 knows.

    Writes attention_budget.pdf / .png (Seg4Diff, Fig. 2), attention_budget.csv and attention_budget.nc.
    """
    from mmdit_probe.figures.budget import budget_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.attention_budget import budget_table, run_budget, summary

    config = BudgetConfig(
        common.chosen_prompts(model, prompt, prompts),
        common.numbers("--timesteps", timesteps),
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
    )
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, config.prompts, max_sequence_length)
    with common.Bar("prompts", as_json) as bar:
        record = run_budget(pipe, config, out, source.label, bar.update)
    table = budget_table(record)
    files = [
        *save_figure(budget_figure(table), out / "attention_budget"),
        write_text(out / "attention_budget.csv", table.to_csv(index=False)),
        save_record(record, out / "attention_budget.nc"),
    ]
    common.finish(summary(table), files, as_json, table=json.loads(table.to_json(orient="records")))
