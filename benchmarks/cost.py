"""What probing costs beside the plain forward pass: ``python -m benchmarks.cost``.

Every ratio is taken within one run: the variants are run in turn, round by round, and the median of the rounds' ratios
is printed with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from tqdm.auto import tqdm

from mmdit_probe import BlurText, I2TMaps, JointAttention, Probe, RegionMass, TokenLayout, ValueNorms
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.readouts.base import read

from .models import HEAD_WIDTH, HEADS, TEXT, block_stack, inputs
from .naive_baselines import Chunked, Materialize

BLOCKS, SIDE = 4, 64
LIMITS = {
    "region mass + head-mean I2T maps + value norms, every layer": 1.03,
    "the same with per-head I2T maps": 1.10,
    "blurred I2T in one layer": 1.02,
    "layer 9 of 24 with stop_early": 0.45,
    "growth of the readouts' time, 4x the image tokens": 4.4,
    "extra peak memory, mass + maps of one layer, MB": 80,
}


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(variants: dict[str, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Seconds of each variant, a row a round, after one round that does not count."""
    rows = []
    for number in tqdm(range(rounds + 1), "rounds"):
        row = {name: seconds(action) for name, action in variants.items()}
        if number:
            rows.append(row)
    return pd.DataFrame(rows)


def ratios(times: pd.DataFrame, kind: str) -> list[dict[str, object]]:
    """Each variant against the plain one of its round."""
    found = []
    for name in times.columns.drop("plain"):
        ratio = times[name] / times["plain"]
        found.append(row(name, median(ratio), ratio.min(), ratio.max(), kind))
    return found


def row(name: str, value: float, least: float, most: float, kind: str) -> dict[str, object]:
    limit = LIMITS.get(name)
    return {"what": name, "kind": kind, "median": value, "least": least, "most": most, "at most": limit}


def of_forward(rounds: int, straw_rounds: int) -> list[dict[str, object]]:
    model, given = block_stack(BLOCKS), inputs(SIDE)
    lean, heads = [RegionMass(), I2TMaps(), ValueNorms()], [RegionMass(), I2TMaps("all"), ValueNorms()]

    def forward(context=nullcontext) -> None:
        with torch.no_grad(), context():
            model(**given)

    names = list(LIMITS)
    variants = {
        "plain": forward,
        names[0]: lambda: forward(lambda: Probe(model, lean)),
        names[1]: lambda: forward(lambda: Probe(model, heads)),
        names[2]: lambda: forward(lambda: Probe(model, [], edits=[BlurText(1)])),
    }
    naive_baselines = {
        "plain": forward,
        "straw man: explicit softmax, 256 rows at a time": lambda: forward(Chunked),
        "straw man: materialize, then slice": lambda: forward(Materialize),
    }
    return ratios(in_turn(variants, rounds), "time") + ratios(in_turn(naive_baselines, straw_rounds), "time")


def of_stop_early(rounds: int, side: int = 32) -> list[dict[str, object]]:
    model, given = block_stack(24), inputs(side)

    def plain() -> None:
        with torch.no_grad():
            model(**given)

    def stopped() -> None:
        with torch.no_grad(), Probe(model, [RegionMass(), I2TMaps()], layers=[9], stop_early=True):
            model(**given)

    return ratios(in_turn({"plain": plain, "layer 9 of 24 with stop_early": stopped}, rounds), "time")


def of_growth(rounds: int) -> dict[str, object]:
    """The readouts' own time on one call, at 32 x 32 and 64 x 64 tokens."""

    def reading(side: int) -> Callable[[], object]:
        layout = TokenLayout((side, side), TEXT)
        shape = (1, layout.tokens, HEADS, HEAD_WIDTH)
        query, key, value = (torch.randn(shape).transpose(1, 2) for _ in range(3))
        call = AttentionCall(query, key, value)
        _ = call.attended  # the plain call's own work
        return lambda: read([RegionMass(), I2TMaps(), ValueNorms()], JointAttention(call, layout))

    times = in_turn({"plain": reading(32), "large": reading(64)}, 4 * rounds)
    growth = times["large"] / times["plain"]
    return row("growth of the readouts' time, 4x the image tokens", median(growth), growth.min(), growth.max(), "time")


def peak_memory(variant: str) -> float:
    """Peak memory, MB above what was held before, of reading one attention call in a process of its own."""
    code = f"from benchmarks.cost import measure_peak; measure_peak({variant!r})"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure_peak(variant: str) -> None:
    """Runs in the child: after the plain call, forget the peak, read the call once, print the growth of the peak."""
    layout = TokenLayout((SIDE, SIDE), TEXT)
    shape = (1, layout.tokens, HEADS, HEAD_WIDTH)
    query, key, value = (torch.randn(shape).transpose(1, 2) for _ in range(3))
    call = AttentionCall(query, key, value)
    attention = JointAttention(call, layout)
    _ = attention.output  # the plain call's own work
    actions = {
        "probed": lambda: read([RegionMass(), I2TMaps()], attention),
        "materialize": lambda: Materialize().attend(query, key, value),
    }
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from now on
    actions[variant]()
    print((_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def of_memory(rounds: int) -> list[dict[str, object]]:
    found = []
    names = {"probed": list(LIMITS)[-1], "materialize": "straw man: extra peak memory of materializing, MB"}
    for variant, name in names.items():
        values = [peak_memory(variant) for _ in range(rounds)]
        found.append(row(name, median(values), min(values), max(values), "MB"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    options = parser.parse_args()
    rounds = options.rounds
    rows = of_forward(rounds, max(2, rounds // 3)) + of_stop_early(max(3, rounds // 2)) + [of_growth(rounds)]
    if sys.platform == "linux":
        rows += of_memory(3)
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "cost.csv", index=False)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "rounds": rounds}
    (options.out / "cost.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    print(f"SD3-size blocks: {SIDE * SIDE} + {TEXT} tokens, {HEADS} heads of {HEAD_WIDTH}, fp32, {machine}")
    print(table.drop(columns="kind").to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep=""))


if __name__ == "__main__":
    main()
