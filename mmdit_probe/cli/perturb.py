"""mmdit-probe perturb."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import MetricConfig, ModelConfig, PerturbConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig

_SHEET_ROWS = 8


def perturb(
    prompts: PromptConfig,
    config: PerturbConfig,
    metric_models: MetricConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "perturb"),
) -> None:
    """The causal test: edit one layer, by default its attention to the words, and see what the images lose.

    The same prompts and seeds are generated plainly and with each layer edited. Without --layer it takes the model's
    expert layer and says which; --layer auto finds one, --layers all takes every layer in turn, --by head every head.
    Metrics: CLIP-T and CLIP-I by --clip (the tiny CLIP for embedded models), DINO by --dino, and for embedded models the share of
    the prompt's facts that a scene reader finds.

    Writes perturb_sheet.pdf / .png (Seg4Diff, Fig. 5), perturb_drops.pdf / .png (Fig. 18), perturb_drops.csv with 95%
    bootstrap intervals over prompts (from 5 on), and perturb_metrics.csv with every image's metrics.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.drops import dots_and_bars, drop_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.chosen_edit import edited_part
    from mmdit_probe.studies.paired_metrics import drop_table, measure_images
    from mmdit_probe.studies.perturbation import most_harmful, run_perturbation, swept_places

    check_layers(config.layers, model)
    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    metrics = make_metrics(model.model, metric_models.clip, metric_models.dino, model.device)
    layers = resolve_layers(pipe, config.layers)
    config = replace(config, layers=layers)
    places = swept_places(pipe, config)
    with Bar("batches of images") as bar:
        grid = run_perturbation(pipe, config, output.out, label(model), bar.update)
    with Bar("images scored") as bar:
        measured = measure_images(grid, metrics, bar.update)
    table = drop_table(measured, list(metrics))
    titles = {"plain": "plain", **{place.name: f"{config.by} {place.value}" for place in places}}
    shown = config.prompts[:_SHEET_ROWS]
    how = (edited_part(config), f"{counted(config.generation.steps, 'step')}, all timesteps edited")
    line = figure_line(
        model, config.prompts, *how, f"averages over {counted(len(config.seeds), 'seed')}", dots_and_bars(table)
    )
    files = [
        *save_figure(
            contact_sheet(grid.first_seed(_SHEET_ROWS), shown, titles),
            output.out / "perturb_sheet",
            figure_line(model, shown, *how, f"seed {config.seeds[0]}"),
        ),
        *save_figure(drop_figure(table, f"edited {config.by}"), output.out / "perturb_drops", line),
        write_text(output.out / "perturb_drops.csv", table.to_csv(index=False)),
        write_text(output.out / "perturb_metrics.csv", measured.to_csv(index=False)),
    ]
    finish(output, [line for name in metrics for line in most_harmful(measured, name)], files, table=table)
