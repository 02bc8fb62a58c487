"""mmdit-probe sinks."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ModelConfig, PromptConfig, SinksConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig


def sinks(
    prompts: PromptConfig,
    config: SinksConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "sinks"),
) -> None:
    """Which single keys take the most of the image's attention, by layer, head and timestep, and what they are.

    A key is a start token, word, end, padding, template or absent position, a corner or another place of the image, a first
    frame's, or the model's own register. Which is which is told by the token layout, not by position: index 0 is the image's
    corner where the image comes first. Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes.

    Writes sinks.pdf / .png, sinks.csv (a row for each prompt, timestep, layer, head and rank), sinks_kinds.csv and sinks.nc.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))
    check_layers(config.layers, model)

    from mmdit_probe.figures.sinks import sinks_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.sinks import kinds_table, run_sinks, sinks_table, summary

    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    with Bar("prompts") as bar:
        record = run_sinks(pipe, config, output.out, label(model), bar.update)
    table = sinks_table(record)
    kinds = kinds_table(table)
    line = figure_line(
        model, config.prompts, "mean over image queries", "a dot a head" + " and prompt" * (len(config.prompts) > 1)
    )
    files = [
        *save_figure(sinks_figure(table, kinds, config.generation.steps), output.out / "sinks", line),
        write_text(output.out / "sinks.csv", table.to_csv(index=False)),
        write_text(output.out / "sinks_kinds.csv", kinds.to_csv(index=False)),
        save_record(record, output.out / "sinks.nc"),
    ]
    finish(output, summary(table, config.every), files, kinds=kinds)
