"""Seg4Diff's rows of Table 2: unsupervised mIoU by the paper's matching, the paper's figures beside ours.

python analyses/unsupervised_table.py

Data sets are read from ROOTS and checkpoints from the hub or its cache; what is not there is a row with a note. The
last model and data set are built in.
"""

from pathlib import Path

from mmdit_probe import load_pipeline
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.runs import write_text
from mmdit_probe.segmentation.paper_tables import beside_the_paper

MODELS = {
    "SD3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "SD3.5": "stabilityai/stable-diffusion-3.5-medium",
    "tiny-sd3": "tiny-sd3",
}
ROOTS = {
    "voc21": Path("data/voc"),
    "context": Path("data/context"),
    "coco-object-background": Path("data/coco"),
    "coco-stuff-27": Path("data/coco"),
    "cityscapes": Path("data/cityscapes"),
    "ade20k": Path("data/ade20k"),
    "scenes": None,
}
PAPER = {"SD3": (54.9, 52.6, 38.5, 49.7, 24.2, 44.9), "SD3.5": (52.3, 52.9, 36.8, 47.1, 24.2, 41.5)}
CONFIG = EvaluateConfig(task="unsupervised", batch=4)
OUT = Path("results/unsupervised-table")

if __name__ == "__main__":
    paper = {(model, dataset): row[i] for model, row in PAPER.items() for i, dataset in enumerate(list(ROOTS)[:6])}
    table = beside_the_paper(load_pipeline, MODELS, ROOTS, paper, CONFIG, OUT)
    write_text(OUT / "table.csv", table.to_csv(index=False))
    print(table.to_string(index=False, float_format="%.1f", na_rep="-", max_colwidth=60))
