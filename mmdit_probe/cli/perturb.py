"""mmdit-probe perturb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_probe.configs import GenerationConfig, PerturbConfig

from . import options as common
from .layers import chosen_layers

_SHEET_ROWS = 8


def perturb(
    model: common.Model = "tiny-sd3",
    layer: common.Layer = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Every layer, one at a time.")] = False,
    edit: Annotated[
        Literal["blur-text", "blur-grid", "uniform", "knockout"],
        typer.Option(help="What is done to the layer's I2T attention; blur-text is the paper's."),
    ] = "blur-text",
    sigma: Annotated[float, typer.Option(help="Width of the blur, in tokens.")] = PerturbConfig.sigma,
    kernel: Annotated[int | None, typer.Option(help="Taps of the blur, an odd number.")] = PerturbConfig.kernel,
    padding: Annotated[
        Literal["reflect", "symmetric"],
        typer.Option(help="Ends of the blur: reflect is the paper's; symmetric keeps each query's text mass exactly."),
    ] = "reflect",
    rows: Annotated[
        Literal["conditional", "all"],
        typer.Option(
            help="Which predictions of classifier-free guidance are edited: the prompt's alone, or the negative prompt's too. "
            "The paper does not say which it took; the drops of Fig. 5 and 18 depend on it."
        ),
    ] = "conditional",
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the starting noise.")] = ",".join(map(str, PerturbConfig.seeds)),
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = PerturbConfig.batch,
    clip: common.ClipModel = None,
    dino: common.DinoModel = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "perturb",
    as_json: common.AsJson = False,
) -> None:
    """The causal test: edit one layer's attention to the words and see what the images lose.

    The same prompts and seeds are generated plainly and with each layer edited. Without --layer it takes the model's
    expert layer and says which; --layer auto finds one. Scores: CLIP-T and CLIP-I by --clip (the embedded tiny CLIP for
    tiny-sd3), DINO by --dino, and for tiny-sd3 the share of the prompt's facts that a scene reader finds.

    Writes perturb_sheet.pdf / .png (Seg4Diff, Fig. 5), perturb_drops.pdf / .png (Fig. 18), perturb_drops.csv with 95%
    bootstrap intervals over prompts and seeds, and perturb_scores.csv with every image's scores.
    """
    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.drops import drop_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.paired_metrics import drop_table, measure_images
    from mmdit_probe.studies.perturbation import layer_name, most_harmful, run_perturbation

    chosen = common.chosen_prompts(model, prompt, prompts)
    generation = GenerationConfig(steps, guidance_scale, max_sequence_length, height, width)
    numbers = common.seed_numbers("--seeds", seeds)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, chosen, max_sequence_length)
    scores = make_metrics(model, clip, dino, device)
    layers = chosen_layers(pipe, layer, all_layers)
    config = PerturbConfig(chosen, layers, edit, sigma, kernel, padding, rows, numbers, batch, generation)
    with common.Bar("batches of images", as_json) as bar:
        grid = run_perturbation(pipe, config, out, source.label, bar.update)
    scored = measure_images(grid, scores)
    table = drop_table(scored, list(scores))
    titles = {"plain": "plain", **{layer_name(number): f"layer {number}" for number in layers}}
    ticks = {layer_name(number): str(number) for number in layers}
    sheet = {name: images[:_SHEET_ROWS, 0] for name, images in grid.images.items()}
    files = [
        *save_figure(contact_sheet(sheet, chosen[:_SHEET_ROWS], titles), out / "perturb_sheet"),
        *save_figure(drop_figure(table, ticks, "edited layer"), out / "perturb_drops"),
        write_text(out / "perturb_drops.csv", table.to_csv(index=False)),
        write_text(out / "perturb_scores.csv", scored.to_csv(index=False)),
    ]
    lines = [line for name in scores for line in most_harmful(scored, name)]
    common.finish(lines, files, as_json, table=json.loads(table.to_json(orient="records")))
