"""Table 2, every row: unsupervised mIoU by the paper's matching, ours beside the paper's.

python analyses/table2.py

Data sets are read from ROOTS and checkpoints from hub ids or folders; what is not there is a note below the table. The
last system and the last data set are built in.
"""

from pathlib import Path

from mmdit_probe import load_pipeline
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.rivals.paper_rows import system_row
from mmdit_probe.runs import write_text
from mmdit_probe.segmentation.paper_tables import beside_the_paper, seg4diff_row, told

SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
MAGNET = {"SA-1B": None, "COCO": None}  # folders of the LoRAs
ROWS = {
    "DiffSeg": system_row("diffseg", "stable-diffusion-v1-5/stable-diffusion-v1-5", load_pipeline),
    "DiffCut": system_row("diffcut", "segmind/SSD-1B", load_pipeline),
    "Seg4Diff SD3": seg4diff_row(load_pipeline, SD3),
    "Seg4Diff SD3.5": seg4diff_row(load_pipeline, "stabilityai/stable-diffusion-3.5-medium"),
    "Seg4Diff + MAGNET (SA-1B)": seg4diff_row(load_pipeline, SD3, MAGNET["SA-1B"]),
    "Seg4Diff + MAGNET (COCO)": seg4diff_row(load_pipeline, SD3, MAGNET["COCO"]),
    "Seg4Diff tiny-sd3": seg4diff_row(load_pipeline, "tiny-sd3"),
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
PAPER = {
    "DiffSeg": (49.8, 48.8, 23.2, 44.2, 16.8, 37.7),
    "DiffCut": (62.0, 54.1, 32.0, 46.1, 28.4, 42.4),
    "Seg4Diff SD3": (54.9, 52.6, 38.5, 49.7, 24.2, 44.9),
    "Seg4Diff SD3.5": (52.3, 52.9, 36.8, 47.1, 24.2, 41.5),
    "Seg4Diff + MAGNET (SA-1B)": (55.1, 52.8, 39.0, 50.8, 24.2, 45.0),
    "Seg4Diff + MAGNET (COCO)": (56.1, 53.5, 38.8, 53.5, 24.4, 45.4),
}
CONFIG = EvaluateConfig(task="unsupervised", batch=4)
OUT = Path("results/table2")

if __name__ == "__main__":
    paper = {(name, dataset): row[i] for name, row in PAPER.items() for i, dataset in enumerate(list(ROOTS)[:6])}
    table = beside_the_paper(ROWS, ROOTS, paper, CONFIG, OUT)
    write_text(OUT / "table2.csv", table.to_csv(index=False))
    print(told(table))
