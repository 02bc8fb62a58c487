"""The tests with the oldest and the newest releases that pyproject.toml allows: ``python tests/matrix.py oldest newest``.

Each set is installed into a fresh virtual environment under ``--work``. oldest: every dependency at its lower bound, so
that a bound that does not hold shows here. newest: the newest releases inside the bounds that pip finds. Warnings are no
errors in either, since they are other projects'. What was installed is written to ``NAME.txt`` beside the environment.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ("ruff", "mypy", "pre-commit")
"""Not needed to run the tests."""
NO_INSTALL = "can't be installed here, not checked"
QUICK = (
    "releases",
    "families",
    "family_prompts",
    "text_parts",
    "image_input",
    "golden",
    "probe",
    "baseline_systems",
    "magnet_files",
)
"""Tests of what diffusers' and transformers' releases have changed, or may."""


def requirements(name: str, torch: str | None) -> list[str]:
    """What pip is asked for: at the lower bounds, or anything inside the bounds; ``torch`` overrules its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = [line for line in wanted if re.match(r"[\w.-]+", line)[0] not in TOOLS]  # type: ignore[index]
    if name == "oldest":
        wanted = [re.sub(r">=([\w.]+).*", r"==\1", line) for line in wanted]
    return [f"torch=={torch}" if torch and re.match(r"torch\b", line) else line for line in wanted]


def run(*command: str | Path) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def check(name: str, work: Path, torch: str | None, arguments: list[str]) -> int | None:
    """Install one set and run the tests with it; pytest's exit code, None if the set can't be installed here."""
    python = work / name / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", work / name)
    try:
        run(python, "-m", "pip", "install", "--quiet", *requirements(name, torch), "hatchling", "editables")
    except subprocess.CalledProcessError:
        return None
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    installed = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    (work / f"{name}.txt").write_text(installed)
    print(*(line for line in installed.splitlines() if re.match("(torch|diffusers|transformers)==", line)), flush=True)
    return subprocess.run(
        [python, "-m", "pytest", "-o", "filterwarnings=default", *arguments], cwd=ROOT, check=False
    ).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=("oldest", "newest"))
    parser.add_argument("--work", type=Path, default=ROOT / ".matrix")
    parser.add_argument("--quick", action="store_true", help="only the tests that releases are likely to break")
    parser.add_argument("--torch", help="this release of PyTorch instead of the bound's")
    options, arguments = parser.parse_known_args()
    arguments += [f"tests/test_{name}.py" for name in QUICK] if options.quick else []
    options.work.mkdir(parents=True, exist_ok=True)
    codes = {name: check(name, options.work, options.torch, arguments) for name in options.sets}
    for name, code in codes.items():
        print(f"{name}: {'passed' if code == 0 else NO_INSTALL if code is None else f'pytest ended with {code}'}")
    sys.exit(any(codes.values()))  # what can't be had is no failure


if __name__ == "__main__":
    main()
