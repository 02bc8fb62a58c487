"""How far maps in bf16 and fp16 are from float64: ``python -m benchmarks.precision`` (``--device cuda`` on a GPU).

One attention call of SD3's and of Flux.1's size at a time: random query and key whose scores spread as little as in a model
without training, or as much as in a layer that looks at few tokens. The reference is the full softmax in float64, head by head.
Told apart are what the probe's arithmetic on the very numbers of the call loses, and what the call's own numbers had lost when
they were rounded to 16 bits, which no reading can mend. Beside them, what a softmax in 16 bits would lose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mmdit_probe import JointAttention, TokenLayout
from mmdit_probe.attention import i2t_maps, region_mass, t2i_maps
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.pipelines.loading import DTYPES

SIZES = {"SD3": (154, 24, 64), "Flux.1": (512, 24, 128)}
"""Text tokens, heads and their width."""
SPREADS = (1.0, 4.0)
"""Standard deviations of the scores before the softmax."""
Maps = dict[str, Tensor]


def call_of(size: str, side: int, spread: float, device: str, heads: int | None = None) -> AttentionCall:
    """A call in fp32 with normal scores."""
    text, all_heads, width = SIZES[size]
    shape = (1, heads or all_heads, side * side + text, width)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    return AttentionCall(spread * query, key, value)


def rounded(call: AttentionCall, dtype: torch.dtype) -> AttentionCall:
    return AttentionCall(*(tensor.to(dtype) for tensor in (call.query, call.key, call.value)))


def reference(call: AttentionCall, layout: TokenLayout, dtype: torch.dtype = torch.float64) -> Maps:
    """Head-mean maps of the full softmax, and the I2T mass, computed in ``dtype`` 1024 rows at a time."""
    image, text, tokens = layout.image_slice, layout.text_slice, layout.tokens
    sums = torch.zeros(tokens, tokens, dtype=torch.float64, device=call.query.device)
    for head in range(call.heads):
        query, key = call.query[0, head].to(dtype), call.key[0, head].to(dtype)
        for start in range(0, tokens, 1024):
            rows = slice(start, start + 1024)
            sums[rows] += (query[rows] @ key.T * call.scale).softmax(-1).double()
    sums /= call.heads
    return {"I2T": sums[image, text], "T2I": sums[text, image], "I2T mass": sums[image, text].sum(-1).mean()[None]}


def ours(call: AttentionCall, layout: TokenLayout) -> tuple[Maps, str]:
    """The same by the probe, and the kernel that ran."""
    attention = JointAttention(call, layout)
    mass = region_mass(attention)[0, :, 1].mean()[None]
    return {"I2T": i2t_maps(attention)[0], "T2I": t2i_maps(attention)[0], "I2T mass": mass}, attention.method


def errors(found: Maps, wanted: Maps) -> dict[str, float]:
    """By map, the largest absolute error over the largest value, and the mean absolute error over the mean."""
    row = {}
    for name, values in wanted.items():
        difference = (found[name].double() - values).abs()
        row[f"{name}, largest"] = (difference.max() / values.max()).item()
        if len(values) > 1:
            row[f"{name}, mean"] = (difference.mean() / values.mean()).item()
    return row


def rows_of(size: str, side: int, spread: float, device: str, heads: int | None = None) -> list[dict[str, object]]:
    """The table of one size and spread."""
    layout = TokenLayout((side, side), SIZES[size][0])
    call, found = call_of(size, side, spread, device, heads), []
    true = reference(call, layout)
    for name, dtype in DTYPES.items():
        given = rounded(call, dtype)
        of_these = true if name == "fp32" else reference(given, layout)
        maps, kernel = ours(given, layout)
        row = {"size": size, "spread": spread, "dtype": name, "kernel": kernel}
        found.append({**row, "what": "the probe's arithmetic", **errors(maps, of_these)})
        if name != "fp32":
            found.append({**row, "what": "rounded query and key, and the arithmetic", **errors(maps, true)})
            straw = reference(given, layout, dtype)
            found.append({**row, "what": "straw man: softmax in 16 bits", "kernel": "", **errors(straw, of_these)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=64, help="image tokens a side")
    parser.add_argument("--heads", type=int, help="only the first heads; all if not given")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    options = parser.parse_args()
    rows = []
    with torch.no_grad():
        for size in SIZES:
            for spread in SPREADS:
                rows += rows_of(size, options.side, spread, options.device, options.heads)
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "precision.csv", index=False)
    heads = "all heads" if options.heads is None else f"{options.heads} heads"
    print(
        f"{options.side**2} image tokens, {heads}, {options.device}; errors relative to the map's largest value, or mean"
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1e}"))


if __name__ == "__main__":
    main()
