"""mmdit-probe magnet compbench."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs import ModelConfig, SamplingConfig, Setting, Settings
from mmdit_probe.configs.generation import BATCH

from ..options import RESULTS, RunConfig
from ..session import Bar, begin, check_prompts_fit, finish, label, load, planned_run


@dataclass(frozen=True, kw_only=True)
class CompbenchConfig(Settings):
    """How many images T2I-CompBench++'s evaluators get."""

    each: Annotated[int, Setting("Images of every prompt.", low=1)] = 10
    batch: Annotated[int, BATCH] = 8
    generation: SamplingConfig = SamplingConfig()


@dataclass(frozen=True, kw_only=True)
class _SamplesConfig(RunConfig):
    """The output folder, whose default depends on the prompt file."""

    out: Annotated[
        Path, Setting("Output folder.", "Output", default="results/compbench/FILE, FILE-lora with a LoRA")
    ] = RESULTS / "compbench"


def compbench(
    prompts: Annotated[Path, typer.Argument(help="A prompt file of T2I-CompBench++, such as color_val.txt.")],
    config: CompbenchConfig,
    model: ModelConfig,
    output: _SamplesConfig,
) -> None:
    """Generate the images that T2I-CompBench++'s evaluators read: give them the output folder as --out_dir.

    Run it once plainly and once with --lora, each in a folder of its own. Writes samples/PROMPT_000000.png and so on;
    images that are there stay, so an interrupted run continues.
    """
    from mmdit_probe.magnet.compbench import export_samples, read_compbench, sample_names

    chosen = read_compbench(prompts)
    if output.out == _SamplesConfig.out:
        output = replace(output, out=output.out / (prompts.stem + ("" if model.lora is None else "-lora")))
    run = planned_run(output.out, "compbench", label(model), config, prompts=chosen)
    pipe = load(model)
    check_prompts_fit(pipe, chosen, config.generation.max_sequence_length)
    begin(run)
    run.claim(sample_names(chosen, config.each))
    with Bar("images") as bar:
        files = export_samples(
            pipe, chosen, output.out, config.generation, each=config.each, batch=config.batch, progress=bar.update
        )
    lines = [f"{len(files)} images of {len(chosen)} prompts; the evaluators' --out_dir is {output.out}"]
    finish(output, lines, [output.out / "samples"])
