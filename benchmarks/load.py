"""Memory along a long evaluation: ``python -m benchmarks.load --scenes 10000``.

All layers of tiny-sd3 on held-out scenes. Prints the resident memory of the process after every tenth of the scenes and
after the tables are made, and fails if it grew by more than ``--allowed`` MB between the first tenth and the last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from mmdit_probe import load_pipeline
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate


def resident() -> float:
    """Resident memory of this process in MB."""
    return psutil.Process().memory_info().rss / 1e6


def measure(scenes: int, batch: int) -> list[dict[str, float]]:
    """Scenes done, seconds since the start and MB, at every tenth and, last, with the tables."""
    pipe, rows, start = load_pipeline("tiny-sd3"), [], time.perf_counter()

    def note(done: int, total: int) -> None:
        if done % max(1, total // 10) == 0:
            rows.append({"scenes": done * batch, "seconds": time.perf_counter() - start, "mb": resident()})
            print(f"{done * batch:>7} scenes  {rows[-1]['seconds']:7.1f} s  {rows[-1]['mb']:7.1f} MB", flush=True)

    with TemporaryDirectory() as out:
        config = EvaluateConfig(batch=batch, limit=scenes)
        result = tabulate(run_evaluation(pipe, held_out_scenes(scenes), config, Path(out), "tiny-sd3", note))
    rows.append({"scenes": scenes, "seconds": time.perf_counter() - start, "mb": resident()})
    print(f"tables of {len(result.images)} rows: {rows[-1]['seconds']:.1f} s, {rows[-1]['mb']:.1f} MB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--allowed", type=float, default=50.0, help="MB that memory may grow by")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = measure(options.scenes, options.batch)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    growth = rows[-2]["mb"] - rows[0]["mb"]
    print(f"growth from the first tenth to the last: {growth:.1f} MB")
    sys.exit(growth > options.allowed)


if __name__ == "__main__":
    main()
