"""Table 1, every row: open-vocabulary mIoU, ours beside the paper's.

python analyses/table1.py [--model MODEL] [--lora NAME=PATH ...] [--device cuda --dtype fp16] [--quick]

Data sets are read from ROOTS and checkpoints from hub ids or folders; what is not there is a note below the table, and so is
how the protocols of the paper's figures differ. --lora SA-1B=PATH and COCO=PATH are the LoRAs of the MAGNET rows. The last
system is --model, the last data set is built in; --quick takes these alone.
"""

from functools import partial
from pathlib import Path

from _analysis import Analysis, main, with_model

from mmdit_probe import load_pipeline
from mmdit_probe.baselines.paper_rows import system_row
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.evaluation.paper_tables import Row, beside_the_paper, format_table, seg4diff_row

SD15, SD3 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-3-medium-diffusers"
DINO, SAM = "facebook/dino-vitb8", "facebook/sam2.1-hiera-large"
ROOTS = {
    "voc20": Path("data/voc"),
    "coco-object": Path("data/coco"),
    "context": Path("data/context"),
    "ade20k": Path("data/ade20k"),
    "cityscapes": Path("data/cityscapes"),
    "scenes": None,
}
PAPER = {  # mIoU in percent, as printed
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
BATCH = 4
"""Images of one forward pass."""


def rows(analysis: Analysis) -> dict[str, Row]:
    place = {"device": analysis.device, "dtype": analysis.dtype}
    baseline, own = partial(system_row, load=load_pipeline, **place), partial(seg4diff_row, load_pipeline, **place)
    sa1b, coco = analysis.loras_of("SA-1B", "COCO")
    return {
        "ProxyCLIP": baseline("proxyclip", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", dino_backbone=DINO),
        "CorrCLIP": baseline("corrclip", "facebook/metaclip-h14-fullcc2.5b", dino_backbone=DINO, sam=SAM),
        "DiffSegmenter": baseline("diffsegmenter", SD15),
        "iSeg": baseline("iseg", SD15),
        "Seg4Diff SD3": own(SD3),
        "Seg4Diff SD3.5": own("stabilityai/stable-diffusion-3.5-medium"),
        "Seg4Diff Flux.1-dev": own("black-forest-labs/FLUX.1-dev"),
        "Seg4Diff + MAGNET (SA-1B)": own(SD3, sa1b),
        "Seg4Diff + MAGNET (COCO)": own(SD3, coco),
    }


def run(analysis: Analysis) -> list[str]:
    config = EvaluateConfig(batch=analysis.at_once(BATCH, BATCH), limit=analysis.fewer(None, 2))
    paper = {
        (name, dataset): value / 100 for name, row in PAPER.items() for dataset, value in zip(ROOTS, row, strict=False)
    }
    systems, roots = with_model(analysis, rows(analysis)), analysis.fewer(ROOTS, {"scenes": None})
    table = beside_the_paper(systems, roots, paper, config, analysis.folder())
    analysis.table(table, "table1")
    return [format_table(table)]


if __name__ == "__main__":
    main(run, __doc__, lora=True)
