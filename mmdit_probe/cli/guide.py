"""mmdit-probe guide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_probe.configs import GenerationConfig, GuideConfig

from . import options as common
from .layers import chosen_layers

_SHEET_ROWS = 8


def guide(
    model: common.Model = "tiny-sd3",
    layer: common.Layer = None,
    scale: Annotated[str, typer.Option(help="Scales of the guidance, to compare; 0 is the plain image.")] = ",".join(
        map(str, GuideConfig.scales)
    ),
    sigma: Annotated[float, typer.Option(help="Width of the blur, in tokens.")] = GuideConfig.sigma,
    kernel: Annotated[int | None, typer.Option(help="Taps of the blur, an odd number.")] = GuideConfig.kernel,
    padding: Annotated[Literal["reflect", "symmetric"], typer.Option(help="Ends of the blur.")] = "reflect",
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the starting noise.")] = ",".join(map(str, GuideConfig.seeds)),
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = GuideConfig.batch,
    batched: Annotated[
        bool,
        typer.Option(
            "--batched/--separate", help="Both predictions in one transformer call, or, with less memory, in two."
        ),
    ] = GuideConfig.batched,
    clip: common.ClipModel = None,
    dino: common.DinoModel = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "guide",
    as_json: common.AsJson = False,
) -> None:
    """Perturbed guidance: steer away from what the model would draw with one layer's words blurred.

    eps + scale (eps - eps_blurred), beside classifier-free guidance. --guidance-scale turns that off at 1 for SD3 and most
    pipelines and at 0 for Z-Image; a model distilled with guidance, such as Flux.1-dev, is told the number instead.

    Writes guide_sheet.pdf / .png (Seg4Diff, Fig. 6), guide_gains.pdf / .png, guide_gains.csv with 95% bootstrap
    intervals over prompts and seeds, and guide_scores.csv with every image's scores.
    """
    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.drops import drop_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.guidance import gain_lines, gain_table, run_guidance, scale_name
    from mmdit_probe.studies.paired_metrics import measure_images

    chosen = common.chosen_prompts(model, prompt, prompts)
    generation = GenerationConfig(steps, guidance_scale, max_sequence_length, height, width)
    numbers = common.seed_numbers("--seeds", seeds)
    scales = common.decimals("--scale", scale)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, chosen, max_sequence_length)
    scores = make_metrics(model, clip, dino, device)
    layers = chosen_layers(pipe, layer, all_layers=False)
    config = GuideConfig(chosen, layers, scales, sigma, kernel, padding, numbers, batch, batched, generation)
    with common.Bar("batches of images", as_json) as bar:
        grid = run_guidance(pipe, config, out, source.label, bar.update)
    names = [name for name in scores if name not in ("clip_i", "dino")]  # how close to plain is no gain
    scored = measure_images(grid, scores)
    table = gain_table(scored, names)
    titles = {"plain": "plain", **{scale_name(one): f"scale {one:g}" for one in scales if one}}
    ticks = {scale_name(one): f"{one:g}" for one in scales if one}
    sheet = {name: images[:_SHEET_ROWS, 0] for name, images in grid.images.items()}
    files = [
        *save_figure(contact_sheet(sheet, chosen[:_SHEET_ROWS], titles), out / "guide_sheet"),
        *save_figure(drop_figure(table, ticks, "scale", "gain over plain"), out / "guide_gains"),
        write_text(out / "guide_gains.csv", table.rename(columns={"drop": "gain"}).to_csv(index=False)),
        write_text(out / "guide_scores.csv", scored.to_csv(index=False)),
    ]
    common.finish(gain_lines(table), files, as_json, table=json.loads(table.to_json(orient="records")))
