"""Table 2, every row: unsupervised mIoU by the paper's matching, ours beside the paper's.

python analyses/table2.py [--model MODEL] [--lora NAME=PATH ...] [--device cuda --dtype fp16] [--quick]

Data sets are read from ROOTS and checkpoints from hub ids or folders; what is not there is a note below the table, and so is
how the protocols of the paper's figures differ, each baseline's from ours. DiffSeg's and DiffCut's figures for
Cityscapes are over 27 classes and stand beside cityscapes-27. --lora SA-1B=PATH and COCO=PATH are the LoRAs of the MAGNET
rows. The last system is --model, the last data set is built in; --quick takes these alone.
"""

from functools import partial
from pathlib import Path

from _analysis import Analysis, main, with_model

from mmdit_probe import load_pipeline
from mmdit_probe.baselines.paper_rows import system_row
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.evaluation.paper_tables import Row, beside_the_paper, format_table, seg4diff_row

SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
ROOTS = {
    "voc21": Path("data/voc"),
    "context": Path("data/context"),
    "coco-object-background": Path("data/coco"),
    "coco-stuff-27": Path("data/coco"),
    "cityscapes": Path("data/cityscapes"),
    "cityscapes-27": Path("data/cityscapes"),
    "ade20k": Path("data/ade20k"),
    "scenes": None,
}
_19 = ("voc21", "context", "coco-object-background", "coco-stuff-27", "cityscapes", "ade20k")
_27 = ("voc21", "context", "coco-object-background", "coco-stuff-27", "cityscapes-27", "ade20k")
PAPER = {
    "DiffSeg": (_27, (49.8, 48.8, 23.2, 44.2, 16.8, 37.7)),
    "DiffCut": (_27, (62.0, 54.1, 32.0, 46.1, 28.4, 42.4)),
    "Seg4Diff SD3": (_19, (54.9, 52.6, 38.5, 49.7, 24.2, 44.9)),
    "Seg4Diff SD3.5": (_19, (52.3, 52.9, 36.8, 47.1, 24.2, 41.5)),
    "Seg4Diff + MAGNET (SA-1B)": (_19, (55.1, 52.8, 39.0, 50.8, 24.2, 45.0)),
    "Seg4Diff + MAGNET (COCO)": (_19, (56.1, 53.5, 38.8, 53.5, 24.4, 45.4)),
}
"""Data sets as each system's protocol has them, and the paper's mIoU in percent, as printed."""
BATCH = 4
"""Images of one forward pass."""


def rows(analysis: Analysis) -> dict[str, Row]:
    place = {"device": analysis.device, "dtype": analysis.dtype}
    baseline, own = partial(system_row, load=load_pipeline, **place), partial(seg4diff_row, load_pipeline, **place)
    sa1b, coco = analysis.loras_of("SA-1B", "COCO")
    return {
        "DiffSeg": baseline("diffseg", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        "DiffCut": baseline("diffcut", "segmind/SSD-1B"),
        "Seg4Diff SD3": own(SD3),
        "Seg4Diff SD3.5": own("stabilityai/stable-diffusion-3.5-medium"),
        "Seg4Diff + MAGNET (SA-1B)": own(SD3, sa1b),
        "Seg4Diff + MAGNET (COCO)": own(SD3, coco),
    }


def run(analysis: Analysis) -> list[str]:
    config = EvaluateConfig(task="unsupervised", batch=analysis.at_once(BATCH, BATCH), limit=analysis.fewer(None, 2))
    paper = {(name, dataset): value / 100 for name, row in PAPER.items() for dataset, value in zip(*row, strict=True)}
    systems, roots = with_model(analysis, rows(analysis)), analysis.fewer(ROOTS, {"scenes": None})
    table = beside_the_paper(systems, roots, paper, config, analysis.folder())
    analysis.table(table, "table2")
    return [format_table(table)]


if __name__ == "__main__":
    main(run, __doc__, lora=True)
