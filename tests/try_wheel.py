"""The built wheel in an empty environment, outside the checkout: ``python tests/try_wheel.py dist/*.whl``.

Installs it with the versions of constraints.txt into a fresh virtual environment and does there what a newcomer does first:
the version, the models, a report of the embedded model, and the five lines of the README.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIVE_LINES = """
from mmdit_probe import load_pipeline, trace
pipe = load_pipeline("tiny-sd3")
with trace(pipe) as seen:
    image = pipe("a red circle on grass", num_inference_steps=2, max_sequence_length=0).images[0]
assert seen.word("circle").overlay(image).size == image.size
assert seen.words["word"].tolist() == ["red", "circle", "grass"]
"""


def run(*command: str | Path, folder: Path) -> None:
    print("+", *command[:6], flush=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(part) for part in command], cwd=folder, check=True, env={**clean, "HF_HUB_OFFLINE": "1"})


def main() -> None:
    """Parse and try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default="python3.11")
    parsed = parser.parse_args()
    wheel = parsed.wheel.resolve()
    with tempfile.TemporaryDirectory(prefix="mmdit-probe-") as made:
        folder = Path(made)
        run(parsed.python, "-m", "venv", folder / "env", folder=folder)
        python = folder / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, folder=folder)
        program = folder / "env" / "bin" / "mmdit-probe"
        run(program, "--version", folder=folder)
        run(program, "models", folder=folder)
        run(program, "report", "--prompt", "a red circle on grass", "--steps", "2", folder=folder)
        assert (folder / "results" / "report" / "report.html").stat().st_size > 100_000
        run(python, "-c", FIVE_LINES, folder=folder)
    print(f"{wheel.name} works in an empty environment")


if __name__ == "__main__":
    main()
