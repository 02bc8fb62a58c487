"""mmdit-probe find-heads."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import FindHeadsConfig, MetricConfig, ModelConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig

_SHEET_ROWS = 8


def find_heads(
    prompts: PromptConfig,
    config: FindHeadsConfig,
    metric_models: MetricConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "find-heads"),
) -> None:
    """Search for the heads whose perturbed guidance raises a score most.

    Head after head is added, as long as one raises --score over plain images: its attention becomes the identity in the
    prediction that guidance leads away from. Every other prompt serves the search; what the heads gain is measured on the
    rest, which the choice has not seen.

    Writes find_heads.csv (every candidate of every round), and find_heads_sheet.pdf / .png (held-out prompts).
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.find_heads import found_lines, run_find_heads, split_prompts

    split_prompts(config.prompts)
    check_layers(config.layers, model)
    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    metrics = make_metrics(model.model, metric_models.clip, metric_models.dino, model.device)
    if config.score not in metrics:
        raise ValueError(f"--score {config.score} is there for the embedded models alone; take clip_t")
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    with Bar("batches of images") as bar:
        found = run_find_heads(pipe, config, metrics[config.score], output.out, label(model), bar.update)
    files = [write_text(output.out / "find_heads.csv", found.rounds.to_csv(index=False))]
    if found.grid is not None:
        shown = found.grid.prompts[:_SHEET_ROWS]
        titles = {"plain": "plain", "chosen": f"heads {found.grid.values['chosen']}"}
        line = figure_line(
            model, shown, f"guidance scale {config.scale:g}", counted(config.generation.steps, "step"), "held out"
        )
        sheet = contact_sheet(found.grid.first_seed(_SHEET_ROWS), shown, titles)
        files += save_figure(sheet, output.out / "find_heads_sheet", line)
    finish(output, found_lines(found, config), files, heads=[f"{layer}.{head}" for layer, head in found.heads])
