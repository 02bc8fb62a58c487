"""Seg4Diff, its refinements by baselines, and DiffSeg and DiffCut on the same layer of a model: mIoU and images a second.

python analyses/baselines_on_mmdit.py [--model MODEL] [--lora NAME=PATH] [--quick]

Thresholds without words are chosen on validation scenes; both tables are written. A LoRA that was trained with MAGNET adds
its rows.
"""

from dataclasses import replace

import pandas as pd
from _analysis import Analysis, main

from mmdit_probe.baselines.comparison import Comparison, ComparisonConfig
from mmdit_probe.utils.distributed import for_all, worker_share

CONFIG = ComparisonConfig()
LARGER = 4
"""Images of one forward pass of a larger model than tiny-sd3."""


@for_all()
def run(analysis: Analysis) -> list[str]:
    loras = list(analysis.loras.values())
    if len(loras) > 1:
        raise ValueError(f"--lora: the tables have room for one LoRA, got {len(loras)}")
    lora = loras[0] if loras else None
    config = replace(analysis.fewer(CONFIG, quick(CONFIG)), batch=analysis.at_once(CONFIG.batch, LARGER))
    say = {"say": print} if worker_share().begins else {}
    magnet = None if lora is None else analysis.pipe(lora)
    comparison = Comparison(analysis.pipe(), analysis.label, config, analysis.folder(), magnet=magnet, lora=lora, **say)
    tuning = comparison.tuning()
    table = comparison.table(tuning)
    analysis.table(tuning, "baselines_on_mmdit_tuning")
    analysis.table(table, "baselines_on_mmdit")
    lines = ["mIoU and pACC in percent:", in_percent(tuning), in_percent(table)]
    return lines if loras else [*lines, "Seg4Diff + MAGNET was not run: give its LoRA by --lora magnet=PATH"]


def in_percent(table: pd.DataFrame) -> str:
    shown = table.assign(**{name: 100 * table[name] for name in ("miou", "pacc") if name in table})
    return shown.to_string(index=False, float_format="%.4g", na_rep="-")


def quick(config: ComparisonConfig) -> ComparisonConfig:
    """Two scenes, and the first of what is tried."""
    thresholds = {method: tried[:1] for method, tried in config.thresholds.items()}
    entropies, iterations = config.entropies[:1], config.iterations[:1]
    return replace(config, scenes=2, validation=2, thresholds=thresholds, entropies=entropies, iterations=iterations)


if __name__ == "__main__":
    main(run, __doc__, lora=True)
