"""mmdit-probe magnet compbench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs import GenerationConfig

from .. import options as common


def compbench(
    prompts: Annotated[Path, typer.Argument(help="A prompt file of T2I-CompBench++, such as color_val.txt.")],
    model: common.Model = "tiny-sd3",
    each: Annotated[int, typer.Option(min=1, help="Images of every prompt.")] = 10,
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = 8,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. Default: results/compbench/FILE, with or without LoRA.")
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Generate the images that T2I-CompBench++'s evaluators read: give them the output folder as --out_dir.

    Run it once plainly and once with --lora, each in a folder of its own. Writes samples/PROMPT_000000.png and so on;
    images that are there stay, so an interrupted run continues.
    """
    from mmdit_probe.configs import as_dict
    from mmdit_probe.magnet.compbench import export_samples, read_compbench
    from mmdit_probe.storage.runs import RunFolder

    chosen = read_compbench(prompts)
    out = out or common.RESULTS / "compbench" / (prompts.stem + ("" if lora is None else "-lora"))
    generation = GenerationConfig(steps, guidance_scale, max_sequence_length, height, width)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, chosen, max_sequence_length)
    settings = {
        "study": "compbench", "model": source.label, "prompts": chosen, "each": each, "generation": as_dict(generation)
    }  # fmt: skip
    with RunFolder(out, settings).open(), common.Bar("images", as_json) as bar:
        files = export_samples(pipe, chosen, out, generation, each=each, batch=batch, progress=bar.update)
    lines = [f"{len(files)} images of {len(chosen)} prompts; the evaluators' --out_dir is {out}"]
    common.finish(lines, [out / "samples"], as_json)
