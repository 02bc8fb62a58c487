"""Beside attention-map-diffusers 1.0.0: ``pip install -e ".[peers]"``, then ``python -m benchmarks.peers``.

The same SD3-size blocks, called once for each step that is kept, as in sampling. Every variant runs in a process of its own,
which prints the CPU seconds of the calls together with what is computed afterwards, and how far the memory peaked above what was
held before; round by round, so that ratios are within one round. Head-mean maps of all layers: I2T alone, or all four regions
(I2T, T2I, T2T, I2I), each position a query. The outputs are compared first, on at most
32 x 32 image tokens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdit_probe import I2TMaps, PairMaps, Probe, RegionMass, T2TMaps, ValueNorms
from mmdit_probe.readouts import T2IMaps

from .cost import _status
from .models import TEXT, block_stack, inputs
from .naive_baselines import Chunked, Materialize

REGIONS = ("I2T", "T2I", "T2T", "I2I")
RELATIONS = dict(zip(REGIONS, ("image->text", "text->image", "text->text", "image->image"), strict=True))
Maps = Mapping[str, Tensor]
"""By region, head-mean maps (step, layer, queries, keys)."""


class MaterializeFour(Materialize):
    """The full softmax of all heads, then its mean."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        probs = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(probs.mean(1))
        return probs @ value


def sample(model: Any, given: dict[str, Tensor], steps: int) -> None:
    """The transformer's calls of a sampling run: one for each step, each at its own timestep."""
    with torch.no_grad():
        for step in range(steps):
            model(**given | {"timestep": torch.tensor([1000.0 * (steps - step) / steps])})


def plain(model: Any, given: dict[str, Tensor], steps: int) -> Maps:
    sample(model, given, steps)
    return {}


def ours(model: Any, given: dict[str, Tensor], steps: int, regions: int) -> Maps:
    """Region masses and value norms beside the maps."""
    readouts: list[Any] = [RegionMass(), ValueNorms(), I2TMaps()]
    if regions == 4:
        readouts += [T2IMaps(), T2TMaps(), PairMaps(_side(given) ** 2)]
    with Probe(model, readouts) as probe:
        sample(model, given, steps)
    fields = {name: field.values[:, 0] for name, field in probe.fields().items()}
    found = {"I2T": fields["i2t"].flatten(2, 3)}
    if regions == 4:
        found["T2I"] = fields["t2i"].flatten(2, 3).transpose(-1, -2)
        found["T2T"], found["I2I"] = fields["t2t"], fields["i2i"].flatten(3, 4)
    return found


def theirs(model: Any, given: dict[str, Tensor], steps: int, regions: int) -> Maps:
    """Query and key of every call are kept, the rows of the matrix made of them afterwards."""
    from attention_map_diffusers import AttentionCapture

    wanted = [RELATIONS[region] for region in REGIONS[: 1 if regions == 1 else 4]]
    pipe = SimpleNamespace(transformer=model)
    kept = {"timesteps": "all", "max_capture_bytes": None}
    with AttentionCapture(pipe, relations=wanted, **kept) as capture:
        sample(model, given, steps)
    records = list(capture.compute())
    return {
        region: torch.stack([record.data[0, 0] for record in records if record.relation == relation])
        .unflatten(0, (steps, -1))
        for region, relation in RELATIONS.items()
        if relation in wanted
    }  # fmt: skip


def straw(kind: type[Materialize]) -> Callable[..., Maps]:
    def run(model: Any, given: dict[str, Tensor], steps: int, regions: int) -> Maps:
        with kind() as seen:
            sample(model, given, steps)
        maps = torch.cat(seen.maps).unflatten(0, (steps, -1))
        if regions == 1:
            return {"I2T": maps}
        image = _side(given) ** 2
        places = {"I": slice(0, image), "T": slice(image, None)}
        return {region: maps[..., places[region[0]], places[region[2]]] for region in REGIONS}

    return run


def _side(given: dict[str, Tensor]) -> int:
    return given["hidden_states"].shape[-1] // 2


VARIANTS: dict[str, Callable[[Any, dict[str, Tensor], int], Maps]] = {
    "plain": plain,
    "ours, I2T": lambda *call: ours(*call, regions=1),
    "ours, four regions": lambda *call: ours(*call, regions=4),
    "attention-map-diffusers, I2T": lambda *call: theirs(*call, regions=1),
    "attention-map-diffusers, four regions": lambda *call: theirs(*call, regions=4),
    "straw man: 256 rows at a time, I2T": lambda *call: straw(Chunked)(*call, regions=1),
    "straw man: materialize, I2T": lambda *call: straw(Materialize)(*call, regions=1),
    "straw man: materialize, four regions": lambda *call: straw(MaterializeFour)(*call, regions=4),
}


def child(variant: str, blocks: int, side: int, steps: int) -> None:
    """Runs in a process of its own: prints CPU seconds, MB that the peak grew by, and MB that are still held."""
    model, given = block_stack(blocks), inputs(side)
    with torch.no_grad():
        model(**inputs(8))  # what is made once
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from now on
    start = time.process_time()
    found = VARIANTS[variant](model, given, steps)
    seconds = time.process_time() - start
    kept = sum(maps.numel() * maps.element_size() for maps in found.values())
    print(json.dumps([seconds, (_status("VmHWM") - before) / 1024, kept / 2**20]))


def measured(variant: str, *arguments: int) -> list[float]:
    code = f"from benchmarks.peers import child; child({variant!r}, {', '.join(map(str, arguments))})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{variant}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(blocks: int, side: int) -> list[str]:
    """The largest differences of the maps to ours; a line for each region and variant."""
    model, given = block_stack(blocks), inputs(side)
    wanted, lines = ours(model, given, 1, regions=4), []
    for name in chosen_variants():
        if name in ("plain", "ours, four regions"):
            continue
        for region, maps in VARIANTS[name](model, given, 1).items():
            difference = (maps - wanted[region]).abs().max().item()
            lines.append(f"{region}, {name}: differs from ours by {difference:.1e} at most, of {maps.max().item():.1e}")
    return lines


def chosen_variants() -> list[str]:
    try:
        import attention_map_diffusers  # noqa: F401
    except ImportError:
        print('attention-map-diffusers is not here (pip install -e ".[peers]"): the straw men alone')
        return [name for name in VARIANTS if not name.startswith("attention-map")]
    return list(VARIANTS)


def of_steps(variants: list[str], blocks: int, side: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    frames = []
    for _ in tqdm(range(rounds), f"{steps} steps"):
        frames.append({name: measured(name, blocks, side, steps) for name in variants})
    rows = []
    for name in variants:
        ratio = [frame[name][0] / frame["plain"][0] for frame in frames]
        rows.append(
            {
                "steps kept": steps,
                "what": name,
                "CPU s": median(frame[name][0] for frame in frames),
                "time / plain": median(ratio),
                "least": min(ratio),
                "most": max(ratio),
                "peak MB": median(frame[name][1] for frame in frames),
                "maps MB": frames[0][name][2],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--side", type=int, default=64, help="image tokens a side; 64 are SD3's 1024 px")
    parser.add_argument("--steps", default="1,4,28", help="steps kept, separated by commas")
    parser.add_argument("--variants", help="only these, separated by semicolons; plain is always among them")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    options = parser.parse_args()
    known = chosen_variants()
    asked = options.variants.split(";") if options.variants else known
    variants = [name for name in known if name == "plain" or name in asked]
    print("\n".join(compare(options.blocks, min(32, options.side))), flush=True)
    rows = []
    for steps in map(int, options.steps.split(",")):
        rows += of_steps(variants, options.blocks, options.side, steps, options.rounds)
        options.out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(options.out / "peers.csv", index=False)
    table = pd.DataFrame(rows)
    size = f"{options.blocks} SD3-size blocks, {options.side**2} + {TEXT} tokens"
    print(f"{size}, fp32, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))


if __name__ == "__main__":
    main()
