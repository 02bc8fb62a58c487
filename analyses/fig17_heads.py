"""Fig. 17: how good the masks of each single head are, by layer.

python analyses/fig17_heads.py [--model MODEL] [--quick]
"""

from _analysis import Analysis, main, of_images

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import summary, tabulate
from mmdit_probe.figures.evaluation import heads_figure

DATASET, ROOT, IMAGES = "scenes", None, 200
TIMESTEPS = (8,)
BATCH, LARGER = 20, 1
"""Images of one forward pass: of tiny-sd3, of a larger model; every head of every layer is kept."""


def run(analysis: Analysis) -> list[str]:
    images = open_dataset(DATASET, ROOT, analysis.fewer(IMAGES, 2))
    config = EvaluateConfig(dataset=DATASET, heads="all", timesteps=TIMESTEPS, batch=analysis.at_once(BATCH, LARGER))
    result = tabulate(run_evaluation(analysis.pipe(), images, config, analysis.folder(), analysis.label))
    analysis.figure(heads_figure(result.settings, config.steps), "fig17_heads", of_images(DATASET, images))
    analysis.table(result.settings, "fig17_heads")
    return summary(result, DATASET, len(images.samples))


if __name__ == "__main__":
    main(run, __doc__)
