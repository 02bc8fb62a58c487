"""Fig. 4 and 28: mean L2 norm of the value vectors of image, text and words, per layer and per head.

python analyses/fig04_fig28_value_norms.py [--model MODEL --prompts FILE] [--quick]
"""

from _analysis import Analysis, main

from mmdit_probe.configs import GenerationConfig, ValueNormsConfig
from mmdit_probe.figures.norms import norm_heads_figure, norms_figure
from mmdit_probe.studies.value_norms import heads_table, norms_table, run_norms, summary

PROMPTS = 50
TIMESTEPS = (8, 28)
STEPS = 28


def run(analysis: Analysis) -> list[str]:
    config = ValueNormsConfig(
        prompts=analysis.prompts(PROMPTS),
        timesteps=analysis.fewer(TIMESTEPS, (1,)),
        generation=GenerationConfig(steps=analysis.fewer(STEPS, 2)),
    )
    record = run_norms(analysis.pipe(), config, analysis.folder(), analysis.label)
    table, heads = norms_table(record), heads_table(record)
    analysis.figure(
        norms_figure(table, config.generation.steps),
        "fig04_value_norms",
        "averages over heads and prompts",
        prompts=config.prompts,
    )
    analysis.figure(
        norm_heads_figure(heads, config.generation.steps),
        "fig28_value_norms_heads",
        "averages over prompts",
        prompts=config.prompts,
    )
    analysis.table(table, "fig04_value_norms")
    analysis.table(heads, "fig28_value_norms_heads")
    return summary(table)


if __name__ == "__main__":
    main(run, __doc__)
