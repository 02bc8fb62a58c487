"""mmdit-probe value-norms."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ModelConfig, PromptConfig, ValueNormsConfig

from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig


def value_norms(
    prompts: PromptConfig,
    config: ValueNormsConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "value-norms"),
) -> None:
    """How long the value vectors of image tokens, all text tokens and words are, per layer and head.

    Generates an image for each prompt and reads the value projections of the prompt's branch of classifier-free
    guidance. Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes.

    Writes value_norms.pdf / .png and value_norms_heads.pdf / .png (Seg4Diff, Fig. 4 and 28), value_norms.csv,
    value_norms_heads.csv and value_norms.nc.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.norms import norm_heads_figure, norms_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.value_norms import heads_table, lead, norms_table, run_norms, summary

    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    with Bar("prompts") as bar:
        record = run_norms(pipe, config, output.out, label(model), bar.update)
    table, heads, steps = norms_table(record), heads_table(record), config.generation.steps
    over = " and prompts" if len(config.prompts) > 1 else ""
    line = figure_line(model, config.prompts, f"averages over tokens, heads{over}")
    by_head = figure_line(model, config.prompts, f"averages over tokens{over}")
    lines = summary(table)
    files = [
        *save_figure(norms_figure(table, steps), output.out / "value_norms", line),
        *save_figure(norm_heads_figure(heads, steps), output.out / "value_norms_heads", by_head),
        write_text(output.out / "value_norms.csv", table.to_csv(index=False)),
        write_text(output.out / "value_norms_heads.csv", heads.to_csv(index=False)),
        save_record(record, output.out / "value_norms.nc"),
    ]
    finish(output, [lines[0], *lead(record), *lines[1:]], files, table=table)
