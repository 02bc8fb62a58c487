"""Terminals of other encodings, in the C locale, and pipes that close: nothing that is said ends a run."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmdit_probe.cli import terminal
from mmdit_probe.utils.text import checked_text, repaired, storable

C_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
SCENE = "sc\u00e8ne"
CLASSES = "\u043a\u0440\u0430\u0441\u043d\u044b\u0439,grass"  # Cyrillic


def command(folder, *arguments, before="", **environment):
    """The command line in a process of its own; the first bytes of its output are read, all if ``before`` is empty."""
    given = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    program = [sys.executable, "-W", "ignore", "-m", "mmdit_probe", *arguments]
    return subprocess.run(program, capture_output=True, cwd=folder, env=given, check=False, timeout=300)


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({"PYTHONIOENCODING": "cp1252"}, b"\\u043a"), (C_LOCALE, b"\\u043a")],
    ids=["cp1252", "C"],
)
def test_classes_and_names_of_other_scripts(tmp_path, random_folder, environment, shown):
    Image.new("RGB", (64, 64), "red").save(tmp_path / f"{SCENE}.png")
    common = ["segment", f"{SCENE}.png", "--classes", CLASSES, "--layer", "1", "--model", str(random_folder)]
    done = command(tmp_path, *common, "--out", "out", **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"Traceback" not in done.stderr
    assert shown in done.stdout
    done.stdout.decode(environment.get("PYTHONIOENCODING", "ascii"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{SCENE}_labels.png", f"{SCENE}_rle.json", "segment.csv"} <= names
    assert SCENE in (tmp_path / "out" / "segment.csv").read_text(encoding="utf-8")
    legend = json.loads((tmp_path / "out" / f"{SCENE}_legend.json").read_text(encoding="utf-8"))
    assert [item["class"] for item in legend] == CLASSES.split(",")
    if environment is C_LOCALE:
        done = command(tmp_path, "segment", "--from", "out", "--out", "again", "--json", **environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout)["table"][0]["image"] == SCENE
        assert (tmp_path / "again" / f"{SCENE}_labels.png").is_file()


@pytest.mark.parametrize("arguments", ["models", "--help"])
def test_a_pipe_that_closes_early_is_no_fault(arguments):
    script = f"{sys.executable} -W ignore -m mmdit_probe {arguments} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_output_that_a_full_disk_does_not_take_is_an_error():
    script = f"{sys.executable} -W ignore -m mmdit_probe models > /dev/full"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr == "error: standard output can't be written (No space left on device); make room\n"


def test_output_that_cannot_be_written_is_dropped(monkeypatch):
    class Gone(io.TextIOWrapper):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone(io.BytesIO(), encoding="utf-8"))
    terminal.say("hello")
    monkeypatch.setattr(sys, "stdout", None)
    terminal.say("hello")
    terminal.flush()
    terminal.prepare()


def test_a_bar_that_nobody_sees_does_not_end_the_run(monkeypatch):
    from mmdit_probe.cli.session import Bar

    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise BrokenPipeError

    with Bar("images", False) as bar:
        bar.bar.disable = False
        monkeypatch.setattr(bar.bar, "refresh", Gone().write, raising=False)
        monkeypatch.setattr(bar.bar, "refresh", lambda: Gone().write(""))
        bar.update(1, 2, loss="3")
        bar.update(2, 2)


def test_bytes_that_python_could_not_decode():
    assert repaired("sc\udcc3\udca8ne") == SCENE
    assert repaired("sc\udce8ne") == "sc\\udce8ne"
    assert repaired("\U0001f600 \u043a") == "\U0001f600 \u043a"
    assert checked_text("prompt", "un caf\udcc3\udca9") == "un caf\u00e9"
    assert terminal.encodable("\u043a\u00e9", "ascii") == "\\u043a\\xe9"
    assert terminal.encodable("\u043a", None) == "\u043a"


def test_file_names_of_words_that_the_machine_cannot_write(monkeypatch):
    def ascii_only(name):
        return name.encode("ascii")

    monkeypatch.setattr(os, "fsencode", ascii_only)
    assert storable("dog") == "dog"
    assert storable("\u043a\u0442") == "u043au0442"


def test_the_suite_can_be_interrupted_where_sigint_is_ignored():
    """As a shell does with what it starts in the background."""
    import signal

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = (
            "import os, signal, sys, time; sys.path.insert(0, 'tests'); import faults\n"
            "import mmdit_probe.cli as cli\n"
            "def wait(): print('ready', flush=True); time.sleep(60)\n"
            "cli.main = wait\n"
            "child = faults.in_fork([], os.devnull)\n"
            "time.sleep(1); os.kill(child, signal.SIGINT); print(faults.ended(child))\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent.parent,
            timeout=120,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.stdout.strip() == "1", done.stderr  # ended by KeyboardInterrupt, not by the sleep
