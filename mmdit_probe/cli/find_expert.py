"""mmdit-probe find-expert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs import ExpertConfig, GenerationConfig

from . import options as common


def find_expert(
    model: common.Model = "tiny-sd3",
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    timestep: Annotated[
        int, typer.Option(help="Timestep to look at, counted from the clean end.")
    ] = ExpertConfig.timestep,
    scenes: Annotated[
        int,
        typer.Option(min=0, max=10_000, help="tiny-sd3: scenes with masks to compare the ranking with; 0 for none."),
    ] = 60,
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
    out: Annotated[Path, typer.Option(help="Output folder.")] = common.RESULTS / "find-expert",
    as_json: common.AsJson = False,
) -> None:
    """Which layer grounds the words? Ranks the layers of any model by four signs that need no labels.

    Text / image value norm; spatial coherence of the words' maps; how few words share a position; and how much the
    prediction changes when the layer's words are blurred. For tiny-sd3 it also measures the mIoU of each layer's masks
    on held-out scenes and says how well the signs foretell it (Spearman).

    Writes expert.csv and expert.pdf / .png.
    """
    from mmdit_probe.figures.expert import expert_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.expert_layer import agreement, with_masks
    from mmdit_probe.studies.expert_layer import find_expert as find

    chosen = common.chosen_prompts(model, prompt, prompts)
    generation = GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed)
    common.lock_output(out)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, chosen, max_sequence_length)
    with common.Bar("prompts", as_json) as bar:
        expert = find(pipe, ExpertConfig(chosen, timestep, generation), bar.update)
    table, lines = expert.table, [f"Layer {expert.layer}, {expert.why}."]
    if model == "tiny-sd3" and scenes:
        table = with_masks(pipe, table, scenes, timestep)
        lines += agreement(table)
    files = [
        *save_figure(expert_figure(table), out / "expert"),
        write_text(out / "expert.csv", table.to_csv(index=False)),
    ]
    common.finish(lines, files, as_json, layer=expert.layer, table=json.loads(table.to_json(orient="records")))
