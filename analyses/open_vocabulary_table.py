"""Seg4Diff's rows of Table 1: open-vocabulary mIoU, the paper's figures beside ours.

python analyses/open_vocabulary_table.py

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
    "Flux.1-dev": "black-forest-labs/FLUX.1-dev",
    "tiny-sd3": "tiny-sd3",
}
ROOTS = {
    "voc20": Path("data/voc"),
    "coco-object": Path("data/coco"),
    "context": Path("data/context"),
    "ade20k": Path("data/ade20k"),
    "cityscapes": Path("data/cityscapes"),
    "scenes": None,
}
PAPER = {
    "SD3": (89.2, 62.0, 49.0, 34.2, 26.5),
    "SD3.5": (86.1, 57.8, 43.4, 30.7, 23.8),
    "Flux.1-dev": (83.1, 50.6, 38.2, 23.9, 17.1),
}
CONFIG = EvaluateConfig(batch=4)
OUT = Path("results/open-vocabulary-table")

if __name__ == "__main__":
    paper = {(model, dataset): row[i] for model, row in PAPER.items() for i, dataset in enumerate(list(ROOTS)[:5])}
    table = beside_the_paper(load_pipeline, MODELS, ROOTS, paper, CONFIG, OUT)
    write_text(OUT / "table.csv", table.to_csv(index=False))
    print(table.to_string(index=False, float_format="%.1f", na_rep="-", max_colwidth=60))
