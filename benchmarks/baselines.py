"""The baselines' steps on one SD3-size layer: ``python -m benchmarks.baselines``.

4096 + 154 tokens, 24 heads of 64, fp32. Seconds, and the growth of the process's peak memory beyond query, key and value;
each step in a process of its own. For comparison: the I2I matrix of every head at once, then its mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.kernels import AttentionArguments, AttentionCall
from mmdit_probe.attention.layout import TokenLayout
from mmdit_probe.baselines.anchor_merging import merge_regions
from mmdit_probe.baselines.attention_rows import image_rows
from mmdit_probe.baselines.diffcut import cut_features
from mmdit_probe.baselines.on_mmdit import image_features
from mmdit_probe.baselines.refinement import iterate, sharpened, smooth
from mmdit_probe.configs.baselines import DiffCutConfig

from .cost import _status

SIDE, TEXT, HEADS, WIDTH, CLASSES = 64, 154, 24, 64, 5


def layer() -> JointAttention:
    """A layer whose neighbors on the grid look alike, as an image's do."""
    generator = torch.Generator().manual_seed(0)
    smooth_map = torch.randn(1, HEADS * WIDTH, 8, 8, generator=generator)
    image = torch.nn.functional.interpolate(smooth_map, size=(SIDE, SIDE), mode="bilinear")
    text = torch.randn(1, HEADS * WIDTH, TEXT, generator=generator)
    states = torch.cat([image.flatten(2), text], 2).unflatten(1, (HEADS, WIDTH)).transpose(2, 3)
    call = AttentionCall(2 * states, states, states, AttentionArguments())
    return JointAttention(call, TokenLayout((SIDE, SIDE), TEXT))


def materialize(attention: JointAttention) -> torch.Tensor:
    """The mean over heads of the whole softmax, all heads at once."""
    scores = attention.query @ attention.key.transpose(2, 3) * attention.scale
    return scores.softmax(-1)[:, :, : SIDE * SIDE, : SIDE * SIDE].mean(1)


def maps() -> torch.Tensor:
    return torch.rand(SIDE * SIDE, CLASSES, generator=torch.Generator().manual_seed(1))


STEPS = {
    "diffsegmenter": lambda a: smooth(image_rows(a), maps()),
    "iseg, 8 iterations": lambda a: iterate(sharpened(image_rows(a), 0.015), maps(), 8),
    "diffseg": lambda a: merge_regions(image_rows(a), (SIDE, SIDE), 0.4),
    "diffcut": lambda a: cut_features(image_features(a)[0], DiffCutConfig()),
    "materialize I2I of all heads": materialize,
}


def measure(step: str) -> None:
    """Print seconds and MB of one step."""
    with torch.no_grad():
        attention = layer()
        _ = attention.lse
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from now on
        start = time.perf_counter()
        STEPS[step](attention)
        print(time.perf_counter() - start, (_status("VmHWM") - before) / 1024)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = []
    for step in STEPS:
        code = f"from benchmarks.baselines import measure; measure({step!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, megabytes = (float(value) for value in done.stdout.split())
        rows.append({"step": step, "seconds": seconds, "extra peak MB": megabytes})
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.1f"))


if __name__ == "__main__":
    main()
