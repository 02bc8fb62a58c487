"""Seg4Diff, its refinements by rivals, and DiffSeg and DiffCut on the same layer of tiny-sd3: mIoU and pictures a second.

python analyses/rivals_on_mmdit.py [--magnet LORA_FOLDER]

Thresholds without words are chosen on validation scenes; both tables are written. Runs continue in results/.
"""

import argparse
from pathlib import Path

from mmdit_probe import load_pipeline
from mmdit_probe.rivals.comparison import Comparison, ComparisonConfig
from mmdit_probe.runs import write_text

MODEL = "tiny-sd3"
CONFIG = ComparisonConfig()
OUT = Path("results/rivals-on-mmdit")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--magnet", help="a LoRA trained with MAGNET: adds its rows")
    lora = parser.parse_args().magnet
    comparison = Comparison(load_pipeline(MODEL), MODEL, CONFIG, OUT, print)
    tuning = comparison.tuning()
    write_text(OUT / "tuning.csv", tuning.to_csv(index=False))
    table = comparison.table(tuning, None if lora is None else load_pipeline(MODEL, lora=lora), lora)
    write_text(OUT / "table.csv", table.to_csv(index=False))
    print(tuning.to_string(index=False, float_format="%.4g", na_rep="-"))
    print(table.to_string(index=False, float_format="%.4g", na_rep="-"))
    if lora is None:
        print("Seg4Diff + MAGNET was not run: give its LoRA by --magnet")
