"""How long a newcomer waits: CPU seconds of --help, of diffusers' own import, and of the first figures beyond it.

``python -m benchmarks.start`` prints a table; each row is the least of ``--rounds`` runs in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile

PIPELINE = "from diffusers import StableDiffusion3Pipeline"
PROMPT = ["--prompt", "a red circle on grass"]
AIMS = {"mmdit-probe --help": 0.3, "maps, beyond it": 4.0, "analyze, beyond it": 9.0}


def cpu(*arguments: str) -> float:
    """CPU seconds of a Python process with these arguments, in an empty folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, cwd=folder, env=environment, text=True
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(rounds: int, *arguments: str) -> float:
    return min(cpu(*arguments) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    command = ("-m", "mmdit_probe")
    imported = least(rounds, "-c", PIPELINE)
    maps = least(rounds, *command, "maps", *PROMPT, "--words", "circle")
    analyze = least(rounds, *command, "analyze", *PROMPT)
    found = {
        "mmdit-probe --help": least(rounds, *command, "--help"),
        "import of diffusers' StableDiffusion3Pipeline": imported,
        "maps, beyond it": maps - imported,
        "maps --format png, beyond it": least(rounds, *command, "maps", *PROMPT, "--words", "circle", "--format", "png")
        - imported,
        "analyze, beyond it": analyze - imported,
    }
    print("| what, CPU seconds | measured | aim |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.2f} | {AIMS.get(name, '')} |")


if __name__ == "__main__":
    main()
