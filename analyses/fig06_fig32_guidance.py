"""Fig. 6 and 32: perturbed guidance at several scales, away from what the model draws with its words blurred (Eq. 8).

python analyses/fig06_fig32_guidance.py [--model MODEL --prompts FILE --clip CLIP] [--quick]
"""

from _analysis import Analysis, expert_of, main

from mmdit_probe.configs import GenerationConfig, GuideConfig
from mmdit_probe.figures.contact import contact_sheet
from mmdit_probe.figures.drops import dots_and_bars, drop_figure
from mmdit_probe.metrics.image_metrics import make_metrics
from mmdit_probe.studies.guidance import gain_lines, gain_table, run_guidance, scale_name
from mmdit_probe.studies.paired_metrics import AGAINST_PLAIN, measure_images

PROMPTS = 20
SEEDS = (0,)
SCALES = (0.0, 1.0, 2.0, 4.0)
SHOWN = 6
"""Prompts on the sheet."""
STEPS = 28
BATCH = GuideConfig.batch
"""Prompts that are generated together."""


def run(analysis: Analysis) -> list[str]:
    pipe, prompts = analysis.pipe(), analysis.prompts(PROMPTS)
    generation = GenerationConfig(steps=analysis.fewer(STEPS, 2))
    batch = analysis.at_once(BATCH, BATCH)
    config = GuideConfig(
        prompts=prompts, layers=(expert_of(pipe),), scales=SCALES, seeds=SEEDS, batch=batch, generation=generation
    )
    grid = run_guidance(pipe, config, analysis.folder(), analysis.label)
    metrics = make_metrics(analysis.model, analysis.clip, None, analysis.device)
    measured = measure_images(grid, metrics)
    names = [name for name in metrics if name not in AGAINST_PLAIN]  # to be like plain is no gain
    table = gain_table(measured, names)
    titles = {"plain": "plain", **{scale_name(scale): f"scale {scale:g}" for scale in SCALES if scale}}
    sheet = {name: images[:SHOWN, 0] for name, images in grid.images.items()}
    analysis.figure(contact_sheet(sheet, prompts[:SHOWN], titles), "fig06_fig32_sheet", prompts=prompts[:SHOWN])
    figure = drop_figure(table, "scale", "average gain over plain")
    analysis.figure(figure, "fig06_gains", dots_and_bars(table), prompts=prompts)
    analysis.table(table, "fig06_gains")
    return gain_lines(measured, names)


if __name__ == "__main__":
    main(run, __doc__)
