"""Everything that wants a CUDA GPU, in at most twelve minutes: ``python -m benchmarks.gpu_day --out OUT``.

Prints as it goes, and keeps what it found in OUT/gpu_day.json after every part: (1) the tests marked gpu, which compare with the
full softmax; (2) what probing costs in bf16 and fp16 on SD3-size and Flux-size blocks, which kernels ran and whether the output
is the plain one bit for bit, and the maps against float64; (3) segment and attention-budget on a folder of SD3 medium's size that
is made on the card; (4) tiny-sd3's training for the rest of the time. A part that fails does not stop the others.

``--rehearse`` does the same on the CPU with small models, in a minute or two: run it wherever the day is prepared.
``--carried FOLDER`` takes packages that the machine lacks from wheels of pure Python: what is missing is named at the start.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "einops", "jaxtyping", "numpy", "pandas", "xarray",
    "filelock", "lazy_loader", "h5netcdf", "h5py", "matplotlib", "peft", "PIL", "psutil", "sklearn", "scipy", "tqdm", "typer",
    "pytest", "hypothesis", "beartype",
)  # fmt: skip
RESERVE = 25
"""Seconds at the end for what is written then."""
SHARES = {"tests": 150, "costs": 150, "commands": 180}
"""Seconds that a part takes at most; training takes the rest."""


class Day:
    """What is found, written after every part, and the time that is left."""

    def __init__(self, out: Path, work: Path, minutes: float, rehearse: bool) -> None:
        self.out, self.work, self.rehearse = out, work, rehearse
        self.device = "cpu" if rehearse else "cuda"
        self.end = time.monotonic() + 60 * minutes - RESERVE
        file = out / "gpu_day.json"
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}  # of other parts
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def part(self, name: str, do: Callable[[Day], Any]) -> None:
        """Do a part, if there is time; its failure is printed and kept."""
        print(f"\n== {name} ({self.left:.0f} s left)", flush=True)
        start = time.monotonic()
        try:
            self.found[name] = do(self) if self.left > 0 else "no time left"
        except Exception:
            self.found[name] = {"failed": traceback.format_exc()}
            print(traceback.format_exc(), flush=True)
        self.found[f"{name}, seconds"] = round(time.monotonic() - start, 1)
        (self.out / "gpu_day.json").write_text(json.dumps(self.found, indent=1, default=str))
        print(f"== {name}: {self.found[f'{name}, seconds']} s", flush=True)

    def run(self, command: Sequence[str], seconds: float) -> dict[str, Any]:
        """A process of its own, its output printed as it comes; ended when its time is over."""
        print("$", " ".join(command), flush=True)
        limit, start = max(1.0, min(seconds, self.left)), time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=limit, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        except subprocess.TimeoutExpired:
            print(f"ended after {limit:.0f} s", flush=True)
            return {"command": list(command), "timed out": limit}
        return {"command": list(command), "code": done.returncode, "seconds": round(time.monotonic() - start, 1)}


def carry(folder: Path) -> None:
    """Make the wheels of a folder importable, here and in the processes started from here."""
    place = tempfile.mkdtemp(prefix="carried-")
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(place)
    sys.path.insert(0, place)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), place, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def machine(day: Day) -> dict[str, Any]:
    """Which card, which versions."""
    import torch

    names = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "xarray", "h5netcdf")
    found: dict[str, Any] = {"python": sys.version.split()[0], "cpus": os.cpu_count()}
    found |= {name: version(name) for name in names}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "GB": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    print(json.dumps(found), flush=True)
    return found


def tests(day: Day) -> dict[str, Any]:
    """The tests marked gpu. Warnings are shown, not errors: the card's releases are not those that CI pins."""
    files = sorted(
        str(file.relative_to(ROOT)) for file in ROOT.glob("tests/test_*.py") if "mark.gpu" in file.read_text()
    )
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-W", "default", "--tb=short", "-rfE", *files]
    found = day.run(command, SHARES["tests"])
    if day.rehearse and found.get("code") not in (0, 5):
        raise RuntimeError(f"pytest ended with {found}")
    return found


def costs(day: Day) -> list[dict[str, Any]]:
    from .gpu_costs import measure_costs, measure_precision

    until = time.monotonic() + min(SHARES["costs"], day.left)
    return [*measure_costs(day.device, day.rehearse, until), *measure_precision(day.device, day.rehearse)]


def commands(day: Day) -> list[dict[str, Any]]:
    """segment and attention-budget on a folder that is made on the card."""
    from .real_models import folder_of
    from .real_size import PROMPT, picture

    start, until = time.monotonic(), time.monotonic() + min(SHARES["commands"], day.left)
    folder = folder_of("sd3", day.work, day.rehearse, "fp16", day.device)
    print(f"SD3's folder: {time.monotonic() - start:.1f} s", flush=True)
    where = ["--model", str(folder), "--device", day.device, "--dtype", "fp32" if day.rehearse else "fp16"]
    image, few = str(picture(day.work)), ["--steps", "2", "--timesteps", "1"] if day.rehearse else []
    asked = {
        "segment": ([image, "--classes", "circle,grass,star,sand", "--layer", "9"], "image_overlay.png"),
        "attention-budget": (["--prompt", PROMPT, *few], "attention_budget.png"),
    }
    rows = []
    for command, (arguments, figure) in asked.items():
        to = day.work / command
        full = [sys.executable, "-m", "mmdit_probe", command, *arguments, *where, "--out", str(to), "--overwrite"]
        rows.append(day.run(full, until - time.monotonic()))
        if rows[-1].get("code") == 0:
            shutil.copy(to / figure, day.out / figure)
        elif day.rehearse:
            raise RuntimeError(f"{command} ended with {rows[-1]}")
    return rows


def training(day: Day) -> dict[str, Any]:
    """In a process of its own, which draws the scenes before it knows a GPU; the averaged weights are copied to OUT."""
    seconds = min(day.left, 30.0) if day.rehearse else day.left - RESERVE
    arguments = [str(day.work / "tiny"), day.device, str(int(day.rehearse)), f"{seconds:.0f}", str(day.out)]
    found = day.run([sys.executable, "-m", "benchmarks.gpu_training", *arguments], day.left)
    if day.rehearse and found.get("code") != 0:
        raise RuntimeError(f"training ended with {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="small models on the CPU")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything")
    parser.add_argument("--parts", default="tests,costs,commands,training", help="only these, separated by commas")
    parser.add_argument("--carried", type=Path, help="a folder of wheels of pure Python")
    parser.add_argument(
        "--out", type=Path, default=Path("results/gpu-day"), help="few small files: what is brought home"
    )
    parser.add_argument("--work", type=Path, help="everything else; a new temporary folder if not given")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="gpu-day-"))
    day = Day(options.out.resolve(), work.resolve(), options.minutes, options.rehearse)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    if options.carried:
        carry(options.carried)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"not here: {', '.join(missing)}; bring wheels of them in a folder, --carried FOLDER")
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA GPU here; --rehearse does the same on the CPU")
    day.part("machine", machine)
    for name in options.parts.split(","):
        day.part(name, {"tests": tests, "costs": costs, "commands": commands, "training": training}[name])
    failed = [name for name, found in day.found.items() if isinstance(found, dict) and "failed" in found]
    print(f"\nfound: {day.out / 'gpu_day.json'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
