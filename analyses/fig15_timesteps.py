"""Fig. 15: masks by timestep, of every layer; sigma stands beside each timestep.

python analyses/fig15_timesteps.py [--model MODEL] [--quick]
"""

from _analysis import Analysis, expert_of, main, of_images

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import summary, tabulate
from mmdit_probe.figures.evaluation import timesteps_figure

DATASET, ROOT, IMAGES = "scenes", None, 200
TIMESTEPS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 28)
BATCH, LARGER = 50, 4
"""Images of one forward pass: of tiny-sd3, of a larger model."""


def run(analysis: Analysis) -> list[str]:
    pipe = analysis.pipe()
    images = open_dataset(DATASET, ROOT, analysis.fewer(IMAGES, 2))
    config = EvaluateConfig(
        dataset=DATASET, timesteps=analysis.fewer(TIMESTEPS, TIMESTEPS[:2]), batch=analysis.at_once(BATCH, LARGER)
    )
    result = tabulate(run_evaluation(pipe, images, config, analysis.folder(), analysis.label))
    analysis.figure(timesteps_figure(result.settings, expert_of(pipe)), "fig15_timesteps", of_images(DATASET, images))
    analysis.table(result.settings, "fig15_timesteps")
    return summary(result, DATASET, len(images.samples))


if __name__ == "__main__":
    main(run, __doc__)
