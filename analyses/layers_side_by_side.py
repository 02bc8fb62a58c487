"""Value-norm ratio, semantic R^2 and mIoU per layer on held-out scenes, and whether they point at the same layer.

python analyses/layers_side_by_side.py [--model MODEL] [--quick]
"""

from _analysis import Analysis, main

from mmdit_probe.configs import AgreementConfig
from mmdit_probe.figures.agreement import agreement_figure
from mmdit_probe.studies.layer_agreement import layer_agreement, rank_correlations, summary

SCENES = 200


def run(analysis: Analysis) -> list[str]:
    table = layer_agreement(analysis.pipe(), AgreementConfig(scenes=analysis.fewer(SCENES, 2)))
    analysis.figure(agreement_figure(table, rank_correlations(table)), "layers_side_by_side")
    analysis.table(table, "layers_side_by_side")
    return summary(table)


if __name__ == "__main__":
    main(run, __doc__)
