"""Fig. 2: the attention budget, what image and text give to each other in every layer.

python analyses/fig02_budget.py [--model MODEL --prompts FILE] [--quick]
"""

from _analysis import Analysis, main

from mmdit_probe.configs import BudgetConfig, GenerationConfig
from mmdit_probe.figures.budget import budget_figure
from mmdit_probe.studies.attention_budget import budget_table, run_budget, summary

PROMPTS = 50
TIMESTEPS = (8, 28)
STEPS = 28


def run(analysis: Analysis) -> list[str]:
    config = BudgetConfig(
        prompts=analysis.prompts(PROMPTS),
        timesteps=analysis.fewer(TIMESTEPS, (1,)),
        generation=GenerationConfig(steps=analysis.fewer(STEPS, 2)),
    )
    table = budget_table(run_budget(analysis.pipe(), config, analysis.folder(), analysis.label))
    analysis.figure(
        budget_figure(table, config.generation.steps),
        "fig02_budget",
        "averages over heads and prompts",
        prompts=config.prompts,
    )
    analysis.table(table, "fig02_budget")
    return summary(table)


if __name__ == "__main__":
    main(run, __doc__)
