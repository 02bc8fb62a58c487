"""Fig. 5, 18 and 31: images of the same seeds with one layer's attention to the words blurred, and what metrics lose.

python analyses/fig05_fig18_fig31_perturbation.py [--model MODEL --prompts FILE --clip CLIP] [--quick]
"""

from _analysis import Analysis, expert_of, main

from mmdit_probe.configs import GenerationConfig, PerturbConfig
from mmdit_probe.families import layers_of
from mmdit_probe.figures.contact import contact_sheet
from mmdit_probe.figures.drops import dots_and_bars, drop_figure
from mmdit_probe.metrics.image_metrics import make_metrics
from mmdit_probe.metrics.verdicts import counted
from mmdit_probe.studies.paired_metrics import drop_table, measure_images
from mmdit_probe.studies.perturbation import layer_name, most_harmful, run_perturbation

PROMPTS = 40
SEEDS = (0,)
SHOWN = 5
"""Prompts on the sheets."""
AROUND = (-5, -3, 0, 2, 4)
"""Layers on the small sheet, counted from the expert layer."""
STEPS = 28
BATCH = PerturbConfig.batch
"""Prompts that are generated together."""


def run(analysis: Analysis) -> list[str]:
    pipe = analysis.pipe()
    layers, expert = tuple(range(len(layers_of(pipe)))), expert_of(pipe)
    prompts = analysis.prompts(PROMPTS)
    generation = GenerationConfig(steps=analysis.fewer(STEPS, 2))
    batch = analysis.at_once(BATCH, BATCH)
    config = PerturbConfig(prompts=prompts, layers=layers, seeds=SEEDS, batch=batch, generation=generation)
    grid = run_perturbation(pipe, config, analysis.folder(), analysis.label)
    metrics = make_metrics(analysis.model, analysis.clip, None, analysis.device)
    measured = measure_images(grid, metrics)
    table = drop_table(measured, list(metrics))
    sheet = {name: images[:SHOWN, 0] for name, images in grid.images.items()}
    near = ["plain", *(layer_name(expert + step) for step in AROUND if expert + step in layers)]
    titles = {"plain": "plain", **{layer_name(layer): f"layer {layer}" for layer in layers}}
    analysis.figure(
        contact_sheet({name: sheet[name] for name in near}, prompts[:SHOWN], titles),
        "fig05_sheet",
        prompts=prompts[:SHOWN],
    )
    analysis.figure(contact_sheet(sheet, prompts[:SHOWN], titles), "fig31_sheet", prompts=prompts[:SHOWN])
    notes = (f"averages over {counted(len(SEEDS), 'seed')}", dots_and_bars(table))
    analysis.figure(drop_figure(table, "blurred layer"), "fig18_drops", *notes, prompts=prompts)
    analysis.table(table, "fig18_drops")
    analysis.table(measured, "fig18_metrics")
    return [line for name in metrics for line in most_harmful(measured, name)]


if __name__ == "__main__":
    main(run, __doc__)
