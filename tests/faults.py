"""Commands that are killed at random moments and resumed: ``python tests/faults.py evaluate perturb --kills 20 --work DIR``.

Each time the command is started in an empty folder, killed after a random part of its whole time, every file that it
left is read, and it is started again and runs to its end: its tables (or figures) must be those of a run that nobody disturbed.
A new command is a line in `COMMANDS`. The commands run in forks of this process, which has loaded the libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads of the parent would be missing in the forks
os.environ.setdefault("HF_HUB_OFFLINE", "1")

IMAGES = [
    "--prompt",
    "a red circle",
    "--prompt",
    "sand",
    "--steps",
    "2",
    "--seeds",
    "0,1",
    "--max-sequence-length",
    "0",
]
SHORT = ["--steps", "2", "--max-sequence-length", "0"]
TRAINING = ["--batch", "2", "--warmup", "1"]
COMMANDS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "scenes", "--limit", "8", "--batch", "1"],
    "correspondence": ["correspondence", "--pairs", "4", "--steps", "4", "--max-sequence-length", "0"],
    "leakage": ["leakage", "scenes", "--limit", "8", "--batch", "1"],
    "perturb": ["perturb", "--layers", "all", "--batch", "1", *IMAGES, "--clip", "tiny-clip"],
    "patch": ["patch", "--from", "a red circle", "--to", "a blue star", *SHORT, "--clip", "tiny-clip"],
    "bind": [
        *("bind", "--prompt", "a red circle", "--prompt", "a circle on sand", "--region", "circle=0,0,0.5,1"),
        *("--layer", "1", "--seeds", "0,1", *SHORT),
    ],
    "find-expert": ["find-expert", "--prompt", "a red circle", "--prompt", "sand", *SHORT],
    "guide": ["guide", *IMAGES, "--layer", "1", "--scales", "0,1", "--batch", "1", "--clip", "tiny-clip"],
    "find-heads": ["find-heads", *IMAGES, "--layer", "1", "--most", "1", "--clip", "tiny-clip"],
    "sinks": ["sinks", "--prompt", "a red circle", "--prompt", "sand", *SHORT],
    "neglect": ["neglect", "--prompt", "a red circle", "--prompt", "a star on sand", *SHORT],
    "maps": [
        *("maps", "--prompt", "a red circle", "--prompt", "sand", "--seeds", "0,1", "--layers", "1", "--format", "png"),
        *SHORT,
    ],
    "magnet": ["magnet", "train", "--steps", "8", "--save-every", "2", "--layer", "1", "--rank", "2", *TRAINING],
}
"""Name -> arguments; --model and --out are added."""
TRIES = 4


def in_fork(arguments: list[str], log: Path) -> int:
    """Start the command line in a fork of this process; its number."""
    child = os.fork()
    if child:
        return child
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell starts in the background
    code = 1
    try:
        from mmdit_probe.cli import main

        sys.argv = ["mmdit-probe", *arguments]
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code)


def ended(child: int) -> int:
    """Wait for a fork; its exit code, negative the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(arguments: list[str], out: Path) -> dict[str, str]:
    """Run to the end; the tables by file name, or the pixels' digests of a command that leaves figures alone."""
    log = out.with_suffix(".log")
    code = ended(in_fork([*arguments, "--out", str(out)], log))
    if code != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with {code}: {log.read_text()}")
    left = [str(file) for file in out.rglob("*.part")]
    if left:
        raise SystemExit(f"left behind: {left}")
    tables = {file.name: file.read_text() for file in sorted(out.glob("*.csv"))}
    return tables or {file.name: pixels_digest(file) for file in sorted(out.glob("*.png"))}


def pixels_digest(file: Path) -> str:
    """Of an image's pixels, whatever else its file says."""
    from PIL import Image

    with Image.open(file) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def check_readable(out: Path) -> int:
    """Read every file that is there; their number."""
    import pandas as pd
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    from mmdit_probe import load_record

    read: dict[str, Callable[[Path], object]] = {
        ".nc": load_record,
        ".csv": pd.read_csv,
        ".json": lambda file: json.loads(file.read_text()),
        ".png": lambda file: Image.open(file).load(),
        ".pt": lambda file: torch.load(file, weights_only=True),
        ".safetensors": load_file,
    }
    files = [file for file in out.rglob("*") if file.suffix in read]
    for file in files:
        read[file.suffix](file)
    return len(files)


def finished_parts(out: Path) -> int:
    """Items of a run, or steps of a training."""
    steps = out / "losses.csv"
    rows = len(steps.read_text().splitlines()) - 1 if steps.exists() else 0
    return len(list(out.glob("items/*.nc"))) + rows


def stopped(arguments: list[str], out: Path, delay: float, how: signal.Signals, after_items: int = 0) -> int:
    """Start, send the signal ``delay`` seconds later (once so many items are there), wait; the exit code."""
    child = in_fork([*arguments, "--out", str(out)], out.with_suffix(".log"))
    while finished_parts(out) < after_items:
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit(f"ended before item {after_items}: {out.with_suffix('.log').read_text()}")
        time.sleep(0.005)
    time.sleep(delay)
    os.kill(child, how)
    return ended(child)


def torture(name: str, model: list[str], work: Path, kills: int, chance: random.Random) -> dict[str, object]:
    """Kill and resume one command so many times; how many kills hit it before it had ended, and what it had left.

    One that came too late is tried again, earlier: the first run, by which the moments are chosen, may be the slowest.
    """
    arguments, out = [*COMMANDS[name], *model], work / name
    start = time.monotonic()
    expected = finish(arguments, work / f"{name}-whole")
    duration = time.monotonic() - start
    hits, files = 0, []
    for _ in range(kills):
        latest = duration
        for _ in range(TRIES):
            shutil.rmtree(out, ignore_errors=True)
            latest = chance.uniform(0, latest)
            hit = stopped(arguments, out, latest, signal.SIGKILL) == -signal.SIGKILL
            if hit:
                break
        hits += hit
        files.append(check_readable(out))
        found = finish(arguments, out)
        if not expected or found != expected:
            raise SystemExit(
                f"{name}: other numbers after a kill in {sorted(n for n in found if found[n] != expected.get(n))}"
            )
    return {"command": name, "kills": kills, "hits": hits, "seconds": round(duration, 2), "files": files}


def interrupted(name: str, model: list[str], work: Path) -> dict[str, object]:
    """Ctrl-C once two items are there: the exit code, seconds until the end, items kept, the last line."""
    arguments, out = [*COMMANDS[name], *model], work / f"{name}-interrupted"
    start = time.monotonic()
    code = stopped(arguments, out, 0, signal.SIGINT, after_items=2)
    seconds, items = time.monotonic() - start, finished_parts(out)
    check_readable(out)
    said = out.with_suffix(".log").read_text().strip().splitlines()[-1]
    return {"command": name, "code": code, "seconds": round(seconds, 2), "items": items, "said": said}


def load_libraries() -> None:
    """Import what the commands import, so that the forks need not."""
    import pkgutil
    from importlib import import_module

    import torch

    import mmdit_probe

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(mmdit_probe.__path__, "mmdit_probe."):
        import_module(module.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="a pipeline folder; tiny-sd3 if not given")
    parser.add_argument("--work", type=Path, required=True, help="folder for the outputs")
    options = parser.parse_args()
    load_libraries()
    chance, model = random.Random(options.seed), ["--model", options.model] if options.model else []
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.commands:
        print(json.dumps(torture(name, model, options.work, options.kills, chance)), flush=True)
        print(json.dumps(interrupted(name, model, options.work)), flush=True)


if __name__ == "__main__":
    main()
