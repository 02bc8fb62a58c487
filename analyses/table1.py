"""Table 1, every row: open-vocabulary mIoU, ours beside the paper's.

python analyses/table1.py

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
DINO, SAM = "facebook/dino-vitb8", "facebook/sam2.1-hiera-large"
MAGNET = {"SA-1B": None, "COCO": None}  # folders of the LoRAs
ROWS = {
    "ProxyCLIP": system_row("proxyclip", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", load_pipeline, DINO),
    "CorrCLIP": system_row("corrclip", "facebook/metaclip-h14-fullcc2.5b", load_pipeline, DINO, SAM),
    "DiffSegmenter": system_row("diffsegmenter", "stable-diffusion-v1-5/stable-diffusion-v1-5", load_pipeline),
    "iSeg": system_row("iseg", "stable-diffusion-v1-5/stable-diffusion-v1-5", load_pipeline),
    "Seg4Diff SD3": seg4diff_row(load_pipeline, SD3),
    "Seg4Diff SD3.5": seg4diff_row(load_pipeline, "stabilityai/stable-diffusion-3.5-medium"),
    "Seg4Diff Flux.1-dev": seg4diff_row(load_pipeline, "black-forest-labs/FLUX.1-dev"),
    "Seg4Diff + MAGNET (SA-1B)": seg4diff_row(load_pipeline, SD3, MAGNET["SA-1B"]),
    "Seg4Diff + MAGNET (COCO)": seg4diff_row(load_pipeline, SD3, MAGNET["COCO"]),
    "Seg4Diff tiny-sd3": seg4diff_row(load_pipeline, "tiny-sd3"),
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
    "ProxyCLIP": (83.3, 49.8, 39.6, 24.2, 42.0),
    "CorrCLIP": (91.8, 52.7, 47.9, 28.8, 49.9),
    "DiffSegmenter": (66.4, 40.0, 45.9, 24.2, 12.4),
    "iSeg": (82.9, 57.3, 39.2, 24.2, 24.8),
    "Seg4Diff SD3": (89.2, 62.0, 49.0, 34.2, 26.5),
    "Seg4Diff SD3.5": (86.1, 57.8, 43.4, 30.7, 23.8),
    "Seg4Diff Flux.1-dev": (83.1, 50.6, 38.2, 23.9, 17.1),
    "Seg4Diff + MAGNET (SA-1B)": (89.1, 62.0, 49.1, 34.7, 25.4),
    "Seg4Diff + MAGNET (COCO)": (89.8, 62.9, 51.2, 35.2, 26.0),
}
CONFIG = EvaluateConfig(batch=4)
OUT = Path("results/table1")

if __name__ == "__main__":
    paper = {(name, dataset): row[i] for name, row in PAPER.items() for i, dataset in enumerate(list(ROOTS)[:5])}
    table = beside_the_paper(ROWS, ROOTS, paper, CONFIG, OUT)
    write_text(OUT / "table1.csv", table.to_csv(index=False))
    print(told(table))
