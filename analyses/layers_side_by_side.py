"""Value-norm ratio, semantic R^2 and mIoU per layer on held-out scenes, and whether they point at the same layer.

python analyses/layers_side_by_side.py [--model MODEL] [--quick]
"""

from _analysis import Analysis, main

from mmdit_probe.configs import AgreementConfig
from mmdit_probe.figures.agreement import agreement_figure
from mmdit_probe.figures.style import time_label
from mmdit_probe.studies.layer_agreement import layer_agreement, rank_correlations, summary
from mmdit_probe.utils.distributed import leave_to_first

SCENES = 200


def run(analysis: Analysis) -> list[str]:
    leave_to_first()  # nothing is split
    config = AgreementConfig(scenes=analysis.fewer(SCENES, 2))
    table = layer_agreement(analysis.pipe(), config)
    when = time_label(config.chosen_timestep, table["sigma"].iloc[0], config.generation.steps)
    analysis.figure(
        agreement_figure(table, rank_correlations(table)), "layers_side_by_side", f"n = {config.scenes} scenes", when
    )
    analysis.table(table, "layers_side_by_side")
    return summary(table)


if __name__ == "__main__":
    main(run, __doc__)
