"""Value-norm ratio, semantic R^2 and mIoU per layer of tiny-sd3, and whether they point at the same layer.

python analyses/layers_side_by_side.py
"""

from pathlib import Path

from mmdit_probe import load_pipeline
from mmdit_probe.agreement import layer_agreement, rank_correlations, read_aloud
from mmdit_probe.configs import AgreementConfig
from mmdit_probe.figures.agreement import agreement_figure
from mmdit_probe.figures.style import save_figure
from mmdit_probe.runs import write_text

MODEL = "tiny-sd3"
CONFIG = AgreementConfig(scenes=200)
OUT = Path("results/layers-side-by-side")

if __name__ == "__main__":
    table = layer_agreement(load_pipeline(MODEL), CONFIG)
    save_figure(agreement_figure(table, rank_correlations(table)), OUT / "layers")
    write_text(OUT / "layers.csv", table.to_csv(index=False))
    print("\n".join(read_aloud(table)))
