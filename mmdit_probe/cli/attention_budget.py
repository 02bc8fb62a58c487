"""mmdit-probe attention-budget."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import BudgetConfig, ModelConfig, PromptConfig

from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig


def attention_budget(
    prompts: PromptConfig,
    config: BudgetConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "attention-budget"),
) -> None:
    """Who attends to whom: I2I, I2T, T2I and T2T attention per layer, against uniform attention.

    Generates an image for each prompt and reads the attention of the prompt's branch of classifier-free guidance.
    Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes, which is what embedded models know.

    The text's part is also told by kinds of tokens: words, start, end, padding, template and absent positions.

    Writes attention_budget.pdf / .png (Seg4Diff, Fig. 2; the lower rows are the kinds), attention_budget.csv,
    attention_budget_kinds.csv and attention_budget.nc.
    """
    config = replace(config, prompts=chosen_prompts(prompts, model))

    from mmdit_probe.figures.budget import budget_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.attention_budget import budget_table, lead, run_budget, summary
    from mmdit_probe.studies.budget_kinds import kinds_summary, kinds_table

    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    with Bar("prompts") as bar:
        record = run_budget(pipe, config, output.out, label(model), bar.update)
    table, kinds = budget_table(record), kinds_table(record)
    line = figure_line(
        model, config.prompts, "averages over heads" + (" and prompts" if len(config.prompts) > 1 else "")
    )
    lines = summary(table) + kinds_summary(kinds)
    files = [
        *save_figure(budget_figure(table, config.generation.steps, kinds), output.out / "attention_budget", line),
        write_text(output.out / "attention_budget.csv", table.to_csv(index=False)),
        write_text(output.out / "attention_budget_kinds.csv", kinds.to_csv(index=False)),
        save_record(record, output.out / "attention_budget.nc"),
    ]
    finish(output, [lines[0], *lead(record), *lines[1:]], files, table=table, kinds=kinds)
