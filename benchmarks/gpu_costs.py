"""What probing costs in 16 bits: for `benchmarks.gpu_day`, and on the CPU when that is rehearsed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from mmdit_probe import BlurText, I2TMaps, Probe, RegionMass, ValueNorms
from mmdit_probe.pipelines.loading import DTYPES
from mmdit_probe.pipelines.pretrained import quiet_loading

from .models import block_stack, inputs
from .precision import SIZES, rows_of
from .real_models import flux_transformer

Inputs = dict[str, Any]


def sd3_blocks(device: str, dtype: torch.dtype, small: bool) -> tuple[nn.Module, Inputs]:
    """24 blocks of SD3 medium, 4096 + 154 tokens."""
    model, given = block_stack(2 if small else 24), inputs(8 if small else 64)
    return model.to(device, dtype), {name: value.to(device, dtype) for name, value in given.items()}


def flux_blocks(device: str, dtype: torch.dtype, small: bool) -> tuple[nn.Module, Inputs]:
    """2 + 4 blocks of Flux.1, 4096 + 512 tokens."""
    torch.manual_seed(0)
    with torch.device(device):
        model = flux_transformer(2, 4, small).to(dtype).eval().requires_grad_(False)
    side, width, config = 8 if small else 64, 512, model.config
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, cols], -1).flatten(0, 1)
    given = {
        "hidden_states": torch.randn(1, side * side, 64),
        "encoder_hidden_states": torch.randn(1, width, config.joint_attention_dim),
        "pooled_projections": torch.randn(1, config.pooled_projection_dim),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": places.float(),
        "txt_ids": torch.zeros(width, 3),
    }
    return model, {name: value.to(device, dtype) for name, value in given.items()}


BLOCKS: dict[str, Callable[[str, torch.dtype, bool], tuple[nn.Module, Inputs]]] = {
    "SD3": sd3_blocks,
    "Flux.1": flux_blocks,
}


def probes(model: nn.Module, layer: int) -> dict[str, Callable[[], Probe]]:
    lean, heads = [RegionMass(), I2TMaps(), ValueNorms()], [RegionMass(), I2TMaps("all"), ValueNorms()]
    return {
        "mass, head-mean I2T maps and value norms of every layer": lambda: Probe(model, lean),
        "the same with per-head I2T maps": lambda: Probe(model, heads),
        "blurred I2T in one layer": lambda: Probe(model, [], edits=[BlurText(layer)]),
        f"layer {layer} alone, stopping there": lambda: Probe(
            model, [RegionMass(), I2TMaps()], layers=[layer], stop_early=True
        ),
    }


def timed(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call that has ended on the device too, and what it returns."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    found = call()
    wait()
    return time.perf_counter() - start, found


def measure_costs(device: str, small: bool, until: float) -> list[dict[str, Any]]:
    """A row for each size, number format and way of probing; ends early at ``until`` (`time.monotonic`)."""
    rows: list[dict[str, Any]] = []
    for size, make in BLOCKS.items():
        for name in ("bf16", "fp16"):
            if time.monotonic() > until:
                print(f"no time for {size} in {name}", flush=True)
                continue
            with quiet_loading():
                model, given = make(device, DTYPES[name], small)
            for row in _of_model(device, model, given, 2 if small else 10, until):
                rows.append({"size": size, "dtype": name, **row})
                print(_line(rows[-1]), flush=True)
            del model, given
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
    return rows


@torch.no_grad()
def _of_model(device: str, model: nn.Module, given: Inputs, rounds: int, until: float) -> list[dict[str, Any]]:
    """The variants in turn, round by round, after one round that does not count."""

    def plain() -> Tensor:
        return model(**given).sample

    layers = len(Probe(model, []).layers)
    ways = probes(model, min(9, layers - 1))
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    facts: dict[str, dict[str, Any]] = {}
    milliseconds = []
    for number in range(rounds + 1):
        took, wanted = timed(device, plain)
        milliseconds.append(1000 * took)
        for name, make in ways.items():
            before = _peak(device)
            took, (probe, output) = timed(device, partial(_probed, make, plain))
            ratios[name].append(1000 * took / milliseconds[-1])
            if not number:
                stopped, edited = output is None, "blurred" in name
                facts[name] = {
                    "same bits": None if stopped or edited else torch.equal(output, wanted),
                    "kernels": "" if edited else probe.dataset().attrs["kernels"],
                    "extra peak MB": None if before is None else (_peak(device, False) - before) / 2**20,
                }
        if number >= 2 and time.monotonic() > until:
            break
    rows = [{"what": "plain forward", "ms": median(milliseconds[1:]), "same bits": torch.equal(plain(), wanted)}]
    for name, found in ratios.items():
        counted = found[1:]
        rows.append(
            {"what": name, "ratio": median(counted), "least": min(counted), "most": max(counted), **facts[name]}
        )
    return rows


def _probed(make: Callable[[], Probe], forward: Callable[[], Tensor]) -> tuple[Probe, Tensor | None]:
    """A forward pass under a probe, and its output; None if it was stopped before it had one."""
    output = None
    with make() as probe:
        output = forward()
    return probe, output


def _peak(device: str, anew: bool = True) -> float | None:
    """Bytes of the peak so far; ``anew`` lets it begin at what is held now. None on the CPU."""
    if not device.startswith("cuda"):
        return None
    if anew:
        torch.cuda.reset_peak_memory_stats()
    return float(torch.cuda.max_memory_allocated())


def _line(row: dict[str, Any]) -> str:
    figures = (
        [f"{row['ms']:.1f} ms"] if "ms" in row else [f"x {row['ratio']:.3f} ({row['least']:.3f} to {row['most']:.3f})"]
    )
    if row["same bits"] is not None:
        figures.append("same bits" if row["same bits"] else "OTHER BITS")
    if row.get("extra peak MB") is not None:
        figures.append(f"{row['extra peak MB']:.0f} MB more at the peak")
    return f"{row['size']} {row['dtype']}: {row['what']}: {', '.join(figures)} {row.get('kernels', '')}"


def measure_precision(device: str, small: bool) -> list[dict[str, Any]]:
    """The rows of `benchmarks.precision`."""
    rows = []
    with torch.no_grad():
        for size in SIZES:
            for row in rows_of(size, 8 if small else 64, 4.0, device, 2 if small else 24):
                rows.append(row)
                errors = {name: f"{value:.1e}" for name, value in row.items() if isinstance(value, float)}
                print(size, row["dtype"], row["kernel"], row["what"], errors, flush=True)
    return rows
