"""mmdit-probe magnet compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mmdit_probe.configs import CompareConfig, GenerationConfig

from .. import options as common

_SHEET_ROWS, _MASK_ROWS = 8, 6


def compare(
    lora: Annotated[str, typer.Option(help="The LoRA to compare with the model without it: a folder, file or hub id.")],
    model: common.Model = "tiny-sd3",
    layer: Annotated[str | None, typer.Option(help="The layer to compare. Default: the expert layer.")] = None,
    dataset: Annotated[str, typer.Option(help="Data set of the masks, as for `mmdit-probe evaluate`.")] = "scenes",
    root: Annotated[Path | None, typer.Option(help="The data set's folder, as released; not for scenes.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images; 300 of scenes.")] = None,
    timesteps: Annotated[
        str, typer.Option(help="Timesteps of 28, counted from the clean end, for masks and attention.")
    ] = ",".join(map(str, CompareConfig.timesteps)),
    prompt: common.Prompt = None,
    prompts: common.Prompts = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the starting noise.")] = ",".join(map(str, CompareConfig.seeds)),
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated together.")] = CompareConfig.batch,
    clip: common.ClipModel = None,
    dino: common.DinoModel = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "magnet-compare",
    as_json: common.AsJson = False,
) -> None:
    """What a MAGNET LoRA changes: masks, the layer's attention, and generated images, before and after.

    Masks: mIoU by names and without words, with 95% bootstrap intervals over images. ImageGrid: the same prompts and seeds
    with and without the LoRA, CLIP-T and CLIPScore (and for tiny-sd3 the scene score) with paired intervals.

    Writes compare_masks.csv and .pdf / .png (examples), compare_attention.csv and .pdf / .png, compare_scores.csv,
    compare_images.csv (every image's scores) and compare_sheet.pdf / .png.
    """
    from mmdit_probe.datasets.registry import dataset_name, open_dataset
    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.magnet import attention_figure, masks_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.magnet import compare as study
    from mmdit_probe.magnet.mask_sheet import mask_rows
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.paired_metrics import measure_images

    from ..segment import one_layer

    chosen = common.chosen_prompts(model, prompt, prompts)
    images = open_dataset(dataset, root, limit)
    generation = GenerationConfig(steps, guidance_scale, max_sequence_length, height, width)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    scores = make_metrics(model, clip, dino, device, clip_score=True)
    number = one_layer(pipe, layer)
    common.check_prompts_fit(pipe, chosen, max_sequence_length)
    config = CompareConfig(
        chosen,
        number,
        dataset_name(dataset),
        limit,
        common.numbers("--timesteps", timesteps),
        common.seed_numbers("--seeds", seeds),
        batch,
        generation,
    )
    common.lock_output(out)
    with common.Bar("batches of images", as_json) as bar:
        masks = study.compare_masks(pipe, images, number, config, out, source.label, bar.update)
    with common.Bar("prompts", as_json) as bar:
        attention = study.compare_attention(pipe, config, out, source.label, bar.update)
    with common.Bar("batches of images", as_json) as bar:
        made = study.compare_images(pipe, config, out, source.label, bar.update)
    scored = measure_images(made, scores)
    gains = study.score_gains(scored, [name for name in scores if name not in ("clip_i", "dino")])
    examples = mask_rows(pipe, images.first(_MASK_ROWS), number, config.timesteps[0], generation)
    sheet = {name: images[:_SHEET_ROWS, 0] for name, images in made.images.items()}
    files = [
        write_text(out / "compare_masks.csv", masks.to_csv(index=False)),
        *save_figure(masks_figure(examples), out / "compare_masks"),
        write_text(out / "compare_attention.csv", attention.to_csv(index=False)),
        *save_figure(attention_figure(attention, number), out / "compare_attention"),
        write_text(out / "compare_scores.csv", gains.to_csv(index=False)),
        write_text(out / "compare_images.csv", scored.to_csv(index=False)),
        *save_figure(
            contact_sheet(sheet, chosen[:_SHEET_ROWS], {"plain": "before", study.AFTER: "after"}), out / "compare_sheet"
        ),
    ]
    lines = study.summary(masks, attention, gains, number)
    tables = {"masks": masks, "attention": attention, "scores": gains}
    common.finish(lines, files, as_json, **{name: _records(table) for name, table in tables.items()})


def _records(table: Any) -> Any:
    return json.loads(table.to_json(orient="records"))
