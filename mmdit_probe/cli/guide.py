"""mmdit-probe guide."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import GuideConfig, MetricConfig, ModelConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig

_SHEET_ROWS = 8


def guide(
    prompts: PromptConfig,
    config: GuideConfig,
    metric_models: MetricConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "guide"),
) -> None:
    """Perturbed guidance: steer away from what the model would draw with one layer's words blurred.

    eps + scale (eps - eps_blurred), in addition to classifier-free guidance. --guidance-scale turns that off at 1 for SD3 and
    most pipelines and at 0 for Z-Image; guidance-distilled models such as Flux.1-dev take the number as an input.

    Writes guide_sheet.pdf / .png (Seg4Diff, Fig. 6), guide_gains.pdf / .png, guide_gains.csv with 95% bootstrap
    intervals over prompts (from 5 on), and guide_metrics.csv with every image's metrics.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.drops import dots_and_bars, drop_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.guidance import gain_lines, gain_table, run_guidance, scale_name
    from mmdit_probe.studies.paired_metrics import AGAINST_PLAIN, measure_images

    check_layers(config.layers, model)
    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    metrics = make_metrics(model.model, metric_models.clip, metric_models.dino, model.device)
    resolved = resolve_layers(pipe, config.layers)
    config = replace(config, layers=resolved)
    with Bar("batches of images") as bar:
        grid = run_guidance(pipe, config, output.out, label(model), bar.update)
    with Bar("images scored") as bar:
        measured = measure_images(grid, metrics, bar.update)
    names = [name for name in metrics if name not in AGAINST_PLAIN]  # being like plain is no gain
    table = gain_table(measured, names)
    titles = {"plain": "plain", **{scale_name(scale): f"scale {scale:g}" for scale in config.scales if scale}}
    shown = config.prompts[:_SHEET_ROWS]
    layers = ", ".join(str(layer) for layer in resolved)
    how = (f"layer {layers} blurred in the prediction that is left", counted(config.generation.steps, "step"))
    line = figure_line(
        model, config.prompts, *how, f"averages over {counted(len(config.seeds), 'seed')}", dots_and_bars(table)
    )
    files = [
        *save_figure(
            contact_sheet(grid.first_seed(_SHEET_ROWS), shown, titles),
            output.out / "guide_sheet",
            figure_line(model, shown, *how, f"seed {config.seeds[0]}"),
        ),
        *save_figure(drop_figure(table, "scale", "average gain over plain"), output.out / "guide_gains", line),
        write_text(output.out / "guide_gains.csv", table.to_csv(index=False)),
        write_text(output.out / "guide_metrics.csv", measured.to_csv(index=False)),
    ]
    finish(output, gain_lines(measured, names), files, table=table)
