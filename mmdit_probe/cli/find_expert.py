"""mmdit-probe find-expert."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import EMBEDDED_MODELS, ExpertConfig, ModelConfig, PromptConfig

from .options import RESULTS
from .session import Bar, check_prompts_fit, checked_run, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig

RESTS_ON = "Maps and masks are I2T's of one layer here; by another reading (segment --read) another layer may be best."


def find_expert(
    prompts: PromptConfig,
    config: ExpertConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "find-expert"),
) -> None:
    """Which layer grounds the words? The one whose attention to them says most of places; no labels are needed.

    Beside it stand four other signs: text / image value norm; spatial coherence of the words' maps; how few words share a
    position; and how much the prediction changes when the layer's words are blurred. For embedded models it also measures the
    mIoU of each layer's masks on held-out scenes and says how well each sign foretells it (Spearman).

    Writes expert.csv and expert.pdf / .png.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.expert import expert_figure
    from mmdit_probe.figures.style import save_figure, time_label
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.expert_layer import agreement, expert_lead, run_find_expert, with_masks

    checked_run(output.out, "find-expert", label(model), config)
    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    with Bar("prompts") as bar:
        expert = run_find_expert(pipe, config, output.out, label(model), bar.update)
    table, lines = expert.table, [f"Layer {expert.layer}, {expert.why}.", *expert_lead(expert), RESTS_ON]
    if model.model in EMBEDDED_MODELS and config.scene_count:
        with Bar("scenes") as bar:
            table = with_masks(
                pipe,
                table,
                config.scene_count,
                config.chosen_timestep,
                steps=config.generation.steps,
                max_sequence_length=config.generation.max_sequence_length,
                progress=bar.update,
            )
        lines += agreement(table)
    when = time_label(config.chosen_timestep, expert.table["sigma"].iloc[0], config.generation.steps)
    line = figure_line(model, config.prompts, when, "averages over heads and prompts; dotted: most information")
    if "scenes" in table:
        line += f"; masks: n = {table['scenes'].iloc[0]} scenes"
    files = [
        *save_figure(expert_figure(table), output.out / "expert", line),
        write_text(output.out / "expert.csv", table.to_csv(index=False)),
    ]
    finish(output, lines, files, layer=expert.layer, table=table)
