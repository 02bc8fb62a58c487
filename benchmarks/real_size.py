"""The commands on folders of real models' sizes: ``python -m benchmarks.real_size`` (``--quick`` rehearses it in a minute).

Each command runs in a process of its own, and so does what it is compared with: the same work by the plain pipeline. Printed
are CPU seconds (of everything, loading included), the largest resident memory (of which weights that lie in a file of their own
format are counted as they are read), and the sizes of what was written. Folders and
results stay below ``--work``: what has been measured is not run again unless ``--again`` asks for it, and the figures can be
looked at there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from mmdit_probe.datasets.scenes import scene
from mmdit_probe.pipelines.loading import embedded_folder

from .real_models import MODELS, made_apart, weight_bytes

PROMPT = "a red circle on grass and a blue star on sand"
ALLOWED = 2.5
"""GB of memory beside the weights that segment may take."""
PAGES, RECORDS = (".html",), (".nc",)


@dataclass(frozen=True)
class Run:
    """A command: its arguments, and the work of the plain pipeline that it is compared with, see `plain_work`."""

    arguments: tuple[str, ...]
    plain: str


def runs(name: str, quick: bool, image: Path) -> dict[str, Run]:
    """The commands of a model, in the order of what they cost; the narrow Flux.1 draws small images."""
    layer = "9" if name == "sd3" else "1"
    small = name == "flux-57" or (name == "flux" and quick)
    size, longest = (("--height", "128", "--width", "128"), ("--longest", "128")) if small else ((), ())
    generated = ("--prompt", PROMPT, *size, *(() if name.startswith("flux") else ("--guidance-scale", "1")))
    given = ("--prompt", PROMPT, "--image", str(image), *longest, "--steps", "2", "--timesteps", "1")
    seen, reading = (given, "read") if name != "video" else ((*generated, "--steps", "2", "--timesteps", "1"), "draw 2")
    clip = str(embedded_folder().parent / "tiny-clip")
    found = {
        "segment": Run(("segment", str(image), "--classes", "circle,grass,star,sand", "--layer", layer), "read"),
        "attention-budget": Run(
            ("attention-budget", *generated, "--steps", "2", "--timesteps", "1,2"), "generate 2"
        ),
        "maps": Run(("maps", *seen, "--words", "circle,sand"), reading),
        "perturb": Run(
            ("perturb", *generated, "--layer", layer, "--steps", "1", "--seeds", "0", "--clip", clip), "draw 1 1"
        ),
        "explore": Run(("explore", *seen), reading),
        "magnet train": Run(
            ("magnet", "train", "--steps", "2", "--batch", "1", "--gradient-checkpointing", "--layer", layer), "train"
        ),
    }  # fmt: skip
    left_out = {
        "sd3": (),
        "flux": ("magnet train",),
        "flux-57": ("segment", "magnet train"),
        "video": ("segment", "perturb", "magnet train"),
    }
    return {command: run for command, run in found.items() if command not in left_out[name]}


@dataclass(frozen=True)
class Used:
    """What a process took."""

    cpu: float
    seconds: float
    peak: int


def used_by(command: Sequence[str], log: Path) -> Used:
    """Run a process to its end, its output in ``log``; `SystemExit` with the end of that if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}; {log}:\n{log.read_text()[-2000:]}")
    return Used(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss * 1024)


def measure(name: str, command: str, run: Run, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table: a command, and the plain pipeline's work, each in a process of its own."""
    out = folder.parent / f"{folder.name}-{options.device}-runs" / command.replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    where = ("--model", str(folder), "--device", options.device)
    format_ = ("--mixed-precision", options.dtype) if command == "magnet train" else ("--dtype", options.dtype)
    format_ = ("--mixed-precision", "no") if format_ == ("--mixed-precision", "fp32") else format_
    to = ("--out", str(out / "explore.html" if command == "explore" else out))
    kept = ("--save-record", str(out / "explore.nc")) if command == "explore" else ()
    probed = used_by(
        (sys.executable, "-m", "mmdit_probe", *run.arguments, *where, *format_, *to, *kept), out / "log.txt"
    )
    log = out / "plain.txt"
    plain = plain_use(run, folder, options, (*where, *format_), log)
    return {
        "model": name,
        "command": command,
        "dtype": options.dtype,
        "device": options.device,
        "quick": options.quick,
        "weights": weight_bytes(folder, options.dtype),
        **asdict(probed),
        "plain_cpu": plain.cpu,
        "plain_peak": plain.peak,
        "records": _bytes(out, RECORDS),
        "pages": _bytes(out, PAGES),
    }


def plain_use(run: Run, folder: Path, options: argparse.Namespace, where: Sequence[str], log: Path) -> Used:
    """The plain work; that of one kind is done once for all the commands that are compared with it."""
    side = "128" if "--height" in run.arguments or "--longest" in run.arguments else "0"
    known = log.parent.parent / f"plain-{run.plain.replace(' ', '-')}-{side}.json"
    if known.exists() and not options.again:
        return Used(**json.loads(known.read_text()))
    if run.plain == "train":  # a plain LoRA step
        out = ("--mask-weight", "0", "--out", str(log.parent / "plain"))
        use = used_by((sys.executable, "-m", "mmdit_probe", *run.arguments, *where, *out), log)
    else:
        arguments = (str(folder), options.dtype, options.device, str(picture(options.work)), side, *run.plain.split())
        use = used_by((sys.executable, "-m", "benchmarks.plain_work", *arguments), log)
    known.write_text(json.dumps(asdict(use)))
    return use


def picture(work: Path) -> Path:
    """An image of 1024 x 1024 px to read."""
    file = work / "image.png"
    if not file.exists():
        Image.fromarray(scene("test", 0).image).resize((1024, 1024), Image.Resampling.BICUBIC).save(file)
    return file


def _bytes(folder: Path, kinds: Sequence[str]) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in kinds and "plain" not in file.parts)


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown; GB and MB are powers of 1000, "more" is the peak less the weights."""
    names = ("model", "command", "CPU s", "plain", "ratio", "weights GB", "peak GB", "more", "plain: more")
    lines = [f"| {' | '.join((*names, 'records MB', 'pages MB'))} |", "|---" * 11 + "|"]
    for row in pd.DataFrame(rows).to_dict("records"):
        beside, plain = ((row[peak] - row["weights"]) / 1e9 for peak in ("peak", "plain_peak"))
        cells = [
            f"{row['model']} {row['dtype']}", row["command"], f"{row['cpu']:.0f}", f"{row['plain_cpu']:.0f}",
            f"{row['cpu'] / row['plain_cpu']:.2f}", f"{row['weights'] / 1e9:.2f}", f"{row['peak'] / 1e9:.2f}",
            f"{beside:.2f}", f"{plain:.2f}", f"{row['records'] / 1e6:.1f}", f"{row['pages'] / 1e6:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="narrow models of the same layers and text")
    parser.add_argument("--work", type=Path, default=Path("results/real-size"), help="folders and results")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--commands", help="only these, separated by commas")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--again", action="store_true", help="measure again what has been measured")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "real_size.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    asked = []
    for name in options.models.split(","):
        commands = runs(name, options.quick, picture(options.work))
        chosen = options.commands.split(",") if options.commands else commands
        for command in (command for command in commands if command in chosen):
            key = {"model": name, "command": command, "dtype": options.dtype, "device": options.device}
            key["quick"] = options.quick
            row = next((row for row in rows if key.items() <= row.items()), None)
            if row is None or options.again:
                folder = made_apart(name, options.work, options.quick, options.dtype, options.device)
                row = measure(name, command, commands[command], folder, options)
                rows = [old for old in rows if not key.items() <= old.items()] + [row]
                file.write_text(json.dumps(rows, indent=1))
                print(shown([row]).splitlines()[-1], flush=True)
            asked.append(row)
    print(
        f"{'narrow models; ' * options.quick}{os.cpu_count()} CPUs, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    print(shown(asked))
    over = [row for row in asked if row["command"] == "segment" and row["peak"] - row["weights"] > ALLOWED * 1e9]
    sys.exit(f"segment takes more than {ALLOWED} GB beside the weights" if over else 0)


if __name__ == "__main__":
    main()
