"""mmdit-probe magnet compare."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import CompareConfig, DatasetConfig, MetricConfig, ModelConfig, OneLayerConfig, PromptConfig
from mmdit_probe.configs.generation import seeded

from ..layers import check_layers, resolve_layer
from ..options import RESULTS
from ..session import (
    Bar,
    begin,
    check_prompts_fit,
    checked_run,
    chosen_prompts,
    figure_line,
    finish,
    label,
    load,
    name_unknown_words,
)
from ..split import SplitRunConfig

_SHEET_ROWS, _MASK_ROWS = 8, 6


def compare(
    prompts: PromptConfig,
    dataset: DatasetConfig,
    config: CompareConfig,
    layer: OneLayerConfig,
    metric_models: MetricConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "magnet-compare"),
) -> None:
    """What a MAGNET LoRA (--lora) changes: masks, the layer's attention, and generated images, before and after.

    Masks: mIoU by names and without words, with 95% bootstrap intervals over images. Images: the same prompts and seeds
    with and without the LoRA, CLIP-T and CLIPScore (and for embedded models the scene metric) with paired intervals.

    Writes compare_masks.csv and .pdf / .png (examples), compare_attention.csv and .pdf / .png, compare_metrics.csv,
    compare_images.csv (every image's metrics) and compare_sheet.pdf / .png.
    """
    from mmdit_probe.datasets.registry import dataset_name, open_dataset
    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.magnet import attention_figure, masks_figure
    from mmdit_probe.figures.style import save_figure, time_label
    from mmdit_probe.magnet import compare as study
    from mmdit_probe.magnet.mask_sheet import mask_rows
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.paired_metrics import AGAINST_PLAIN, measure_images
    from mmdit_probe.utils.distributed import stage

    if model.lora is None:
        raise ValueError("give --lora: a folder, file or hub id of the LoRA to compare with the model without it")
    config = replace(config, prompts=chosen_prompts(prompts, model))
    images = open_dataset(config.dataset, dataset.root, config.limit)
    check_layers(layer.layers, model)
    config = replace(config, dataset=dataset_name(config.dataset))
    run = checked_run(output.out, "magnet-compare", label(model), config, layers=layer.layers, data=images.digest)
    pipe = load(model)
    metrics = make_metrics(model.model, metric_models.clip, metric_models.dino, model.device, clip_score=True)
    number = resolve_layer(pipe, layer.layers)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    name_unknown_words(pipe, images.classes)
    config = replace(config, layer=number)
    out, name = output.out, label(model)
    begin(run)
    with stage(), Bar("batches of images") as bar:
        masks = study.compare_masks(pipe, images, number, config, out, name, bar.update)
    with stage(), Bar("prompts") as bar:
        attention = study.compare_attention(pipe, config, out, name, bar.update)
    with Bar("batches of images") as bar:
        grid = study.compare_images(pipe, config, out, name, bar.update)
    with Bar("images scored") as bar:
        measured = measure_images(grid, metrics, bar.update)
    gains = study.metric_gains(measured, [name for name in metrics if name not in AGAINST_PLAIN])
    examples = mask_rows(
        pipe, images.first(_MASK_ROWS), number, config.chosen_timesteps[0], seeded(config.generation, config.seeds[0])
    )
    shown, steps = config.prompts[:_SHEET_ROWS], config.generation.steps
    sheet = contact_sheet(grid.first_seed(_SHEET_ROWS), shown, {"plain": "before", study.AFTER: "after"})
    when = f"layer {number}, {time_label(config.chosen_timesteps[0], masks['sigma'].iloc[0], steps)}"
    times = ", ".join(
        time_label(row["timestep"], row["sigma"], steps) for _, row in masks.drop_duplicates("timestep").iterrows()
    )
    averages = figure_line(model, config.prompts, f"averages over heads, prompts and {times}; dotted: layer {number}")
    files = [
        write_text(out / "compare_masks.csv", masks.to_csv(index=False)),
        *save_figure(masks_figure(examples), out / "compare_masks", figure_line(model, (), when)),
        write_text(out / "compare_attention.csv", attention.to_csv(index=False)),
        *save_figure(attention_figure(attention, number), out / "compare_attention", averages),
        write_text(out / "compare_metrics.csv", gains.to_csv(index=False)),
        write_text(out / "compare_images.csv", measured.to_csv(index=False)),
        *save_figure(sheet, out / "compare_sheet", figure_line(model, shown, f"seed {config.seeds[0]}")),
    ]
    lines = study.summary(masks, attention, gains, number)
    finish(output, lines, files, masks=masks, attention=attention, metrics=gains)
