"""Fig. 8: how good each layer's masks are, by class names.

python analyses/fig08_layers.py [--model MODEL] [--quick]
"""

from _analysis import Analysis, main, of_images

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import summary, tabulate
from mmdit_probe.figures.evaluation import evaluation_figure

DATASET, ROOT, IMAGES = "scenes", None, 300
TIMESTEPS = (8,)
BATCH, LARGER = 50, 8
"""Images of one forward pass: of tiny-sd3, of a larger model."""


def run(analysis: Analysis) -> list[str]:
    images = open_dataset(DATASET, ROOT, analysis.fewer(IMAGES, 2))
    config = EvaluateConfig(dataset=DATASET, timesteps=TIMESTEPS, batch=analysis.at_once(BATCH, LARGER))
    result = tabulate(run_evaluation(analysis.pipe(), images, config, analysis.folder(), analysis.label))
    analysis.figure(
        evaluation_figure(result.settings, result.trivial, config.steps), "fig08_layers", of_images(DATASET, images)
    )
    analysis.table(result.settings, "fig08_layers")
    analysis.table(result.classes, "fig08_layers_classes")
    return summary(result, DATASET, len(images.samples))


if __name__ == "__main__":
    main(run, __doc__)
