"""Table 5: masks from probabilities or from scores before the softmax, as they are or each brought to [0, 1].

python analyses/table5.py [--model MODEL] [--quick]
"""

import pandas as pd
from _analysis import Analysis, expert_of, main

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.utils.distributed import leave_to_first, stage

DATASET, ROOT, IMAGES = "scenes", None, 300
TIMESTEP = 8
BATCH, LARGER = 50, 8
"""Images of one forward pass: of tiny-sd3, of a larger model."""
PAPER = {"probs": 89.0, "probs-minmax": 88.3, "scores": 83.2, "scores-minmax": 85.2}
"""mIoU in percent, as printed, on VOC20, SD3's layer 9."""


def run(analysis: Analysis) -> list[str]:
    pipe, found = analysis.pipe(), []
    images = open_dataset(DATASET, ROOT, analysis.fewer(IMAGES, 2))
    for normalize, published in PAPER.items():
        config = EvaluateConfig(
            dataset=DATASET,
            layers=(expert_of(pipe),),
            timesteps=(TIMESTEP,),
            normalize=normalize,
            batch=analysis.at_once(BATCH, LARGER),
        )
        folder = analysis.folder(f"-{normalize}")
        with stage():
            result = tabulate(run_evaluation(pipe, images, config, folder, analysis.label)).settings.iloc[0]
            found.append({"maps": normalize, "paper (VOC20)": published / 100, **result[["layer", "timestep", "sigma"]],
                          f"ours ({DATASET})": result["miou"]})  # fmt: skip
    leave_to_first()
    table = pd.DataFrame(found)
    analysis.table(table, "table5_normalization")
    where = "layer {layer}, timestep {timestep} (sigma {sigma:.3f})".format(**table.iloc[0])
    return [
        f"{where}, mIoU in percent, ours on {DATASET} / the paper's on VOC20:",
        *(f"{row['maps']}: {100 * row[f'ours ({DATASET})']:.1f} / {100 * row['paper (VOC20)']:.1f}" for row in found),
    ]


if __name__ == "__main__":
    main(run, __doc__)
