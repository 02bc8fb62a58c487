"""Runs that several processes share, or that are computed part by part: the same numbers as one process, whoever is killed."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import in_two_processes
from hypothesis import given
from hypothesis import strategies as st
from test_analyses import MORE

from mmdit_probe.magnet.lora import add_lora, save_lora
from mmdit_probe.storage.locks import folder_lock
from mmdit_probe.storage.records import FORMAT
from mmdit_probe.storage.run_file import read_run
from mmdit_probe.storage.runs import RunFolder, Unit
from mmdit_probe.utils.distributed import ShareDone, WorkerShare, for_all, share_of_part, sharing, stage

FEW = ["--steps", "1", "--max-sequence-length", "0"]
TWO = ["--prompt", "a red circle", "--prompt", "a star on sand"]
IMAGES = [*TWO, *FEW, "--batch", "1", "--clip", "tiny-clip"]
COMMANDS = {
    "attention-budget": [*TWO, *FEW],
    "value-norms": [*TWO, *FEW],
    "sinks": [*TWO, *FEW],
    "neglect": [*TWO, *FEW],
    "correspondence": ["--pairs", "2", "--timesteps", "2", "--max-sequence-length", "0"],
    "leakage": ["scenes", "--limit", "4", "--batch", "2"],
    "evaluate": ["scenes", "--limit", "4", "--layers", "1", "--batch", "1"],
    "segment": ["photos", "--classes", "red,circle", "--layer", "1", "--batch", "1"],
    "perturb": [*IMAGES, "--layers", "0,2", "--seeds", "0"],
    "guide": [*IMAGES, "--layer", "1", "--scales", "0,1"],
    "patch": ["--from", "a red circle", "--to", "sand", "--layers", "0,1", *FEW, "--clip", "tiny-clip"],
    "bind": [*TWO[:2], "--prompt", "a circle on sand", "--region", "circle=0,0,0.5,1", "--layer", "1", *FEW],
    "find-expert": [*TWO, "--steps", "2", "--max-sequence-length", "0"],
    "find-heads": [*IMAGES, "--layer", "1", "--most", "1"],
    "maps": [*TWO[:2], *FEW, "--words", "circle"],
}
COMPARE = [*("magnet", "compare", "--lora", "lora", "--limit", "2", "--layer", "1", "--timesteps", "1"), *IMAGES]


@pytest.fixture
def photos(tmp_path, random_pipe):
    """A folder of images, and a LoRA."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name, pixels in zip("ab", np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8), strict=True):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    add_lora(random_pipe, 2)
    for name, weight in random_pipe.transformer.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    save_lora(random_pipe, tmp_path / "lora")


@pytest.fixture
def one_thread():
    """As torchrun's processes have: sums over threads differ in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tables_of(folder):
    """By name, what its tables hold, and its figures' pixels."""
    from PIL import Image

    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".csv", ".png"))
    read = {".csv": lambda path: path.read_text(), ".png": lambda path: np.asarray(Image.open(path)).tobytes()}
    return {path.relative_to(folder).as_posix(): read[path.suffix](path) for path in files}


@given(st.integers(0, 50), st.integers(1, 9))
def test_every_unit_is_one_process_s(units, processes):
    shares = [WorkerShare(number, processes).of(range(units)) for number in range(processes)]
    assert sorted(unit for share in shares for unit in share) == list(range(units))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_what_recurs_is_nobody_s_alone():
    """Plain images, which are cheaper than guided ones, stand first of each four."""
    shares = [WorkerShare(number, 4).of(["plain", 1, 2, 4] * 4) for number in range(4)]
    assert [share.count("plain") for share in shares] == [1] * 4


_IN_TURN = """
import json, os, runpy, sys
from pathlib import Path
from mmdit_probe.cli import main
from mmdit_probe.storage.runs import RunFolder

rank, write = os.environ["RANK"], RunFolder.write

def counted(self, name, dataset):
    write(self, name, dataset)
    with open(f"items{rank}", "a") as log:
        log.write(f"{Path(self.folder).parts[1]}\\n")

RunFolder.write = counted
for arguments in json.load(open("commands.json")):
    sys.argv = arguments
    try:
        if arguments[0].endswith(".py"):
            sys.path.insert(0, os.path.dirname(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            main()
    except SystemExit as stopped:
        assert not stopped.code, arguments
sys.exit(0)
"""
SCRIPTS = Path(__file__).parent.parent / "analyses"
WHOLE = {"maps", "fig03_fig29_pca", "fig09_fig30_heads_and_padding", "fig16_i2t_against_t2i", "layers_side_by_side"}
"""What the first process does alone."""
FAST = ("neglect", "leakage", "evaluate", "segment", "perturb", "patch", "bind", "find-expert", "find-heads", "maps")
"""Of each kind of unit one."""


def check_two_processes(run, tmp_path, monkeypatch, random_folder, commands, scripts):
    """Commands and scripts, one after the other in the same two processes, leave the tables and figures of one."""
    shutil.copytree(random_folder, tmp_path / "model")
    known = {"expert_layer": 1, "max_sequence_length": 0}
    (tmp_path / "model" / "probe_defaults.json").write_text(json.dumps(known))
    both = [
        ["mmdit-probe", *command, "--model", str(random_folder), "--out", f"two/{command[0]}", "--json"]
        for command in commands
    ]
    files = [str(SCRIPTS / f"{name}.py") for name in scripts]
    (tmp_path / "prompts.txt").write_text("a red circle on sand\na star on grass\n")
    quick = ["--model", "model", "--quick", "--prompts", "prompts.txt", "--clip", "tiny-clip", "--batch", "1", "--out"]
    both += [[file, *quick, f"two/{Path(file).stem}", *MORE.get(Path(file).stem, [])] for file in files]
    (tmp_path / "commands.json").write_text(json.dumps(both))
    printed = in_two_processes([], tmp_path, _IN_TURN).splitlines()
    assert len([line for line in printed if line.startswith("{")]) == len(commands)  # the first process alone speaks

    for command in commands:
        code, _, error = run(*command, "--out", f"one/{command[0]}")
        assert code == 0, error
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for file in files:
        monkeypatch.setattr(sys, "argv", [file, *quick, f"one/{Path(file).stem}", *MORE.get(Path(file).stem, [])])
        runpy.run_path(file, run_name="__main__")
    for name in [*(command[0] for command in commands), *scripts]:
        if name != "baselines_on_mmdit":  # its table says how long it took
            assert tables_of(f"one/{name}") == tables_of(f"two/{name}"), name
        assert not list(Path(f"two/{name}").rglob("*.part"))
    items = [(tmp_path / f"items{rank}").read_text().split() for rank in (0, 1)]
    for name in {*(command[0] for command in commands), *scripts} - {"segment", *WHOLE}:
        first, second = (own.count(name) for own in items)
        assert second > 0, name
        assert abs(first - second) <= 7, name  # the first makes the decisions of find-heads
    assert not WHOLE & set(items[1])


def test_two_processes_give_the_tables_of_one(run, tmp_path, photos, one_thread, random_folder, monkeypatch):
    commands = [[name, *COMMANDS[name]] for name in FAST]
    check_two_processes(run, tmp_path, monkeypatch, random_folder, commands, ["table5"])


@pytest.mark.slow
def test_two_processes_share_every_command_and_script(run, tmp_path, photos, one_thread, random_folder, monkeypatch):
    commands = [[name, *arguments] for name, arguments in COMMANDS.items()] + [COMPARE]
    scripts = sorted(path.stem for path in SCRIPTS.glob("[!_]*.py"))
    check_two_processes(run, tmp_path, monkeypatch, random_folder, commands, scripts)


@pytest.mark.parametrize("command", ["perturb", "find-expert"])
def test_parts_are_computed_apart_and_collected(run, monkeypatch, command):
    arguments = [command, *COMMANDS[command]]
    for part in ("2/2", "1/2"):  # in any order, also at once
        code, out, error = run(*arguments, "--out", "parts", "--part", part)
        assert code == 0
        assert out == ""
        assert f"part {part[0]} of 2 is done" in error
        assert tables_of("parts") == {}
    assert read_run(Path("parts")).files == []
    assert "part" not in read_run(Path("parts")).options
    assert run(*arguments, "--out", "whole")[0] == 0
    monkeypatch.setattr(RunFolder, "write", lambda self, name, item: pytest.fail(f"{name} was computed again"))
    assert run(*arguments, "--out", "parts")[0] == 0
    assert tables_of("parts") == tables_of("whole")
    assert {path.name for path in Path("parts").glob(".lock*")} == set()


@pytest.mark.slow
def test_parts_of_a_search_end_where_others_are_needed(run):
    heads = ["find-heads", *COMMANDS["find-heads"], "--out", "heads"]
    for part, share in (("1/2", 3), ("2/2", 5)):  # of the plain image and 4 heads'
        code, _, error = run(*heads, "--part", part)
        assert code == 0, error
        assert len(list(Path("heads/items").glob("*.nc"))) == share
    assert run(*heads)[0] == 0
    assert Path("heads/items/round0-gains.nc").exists()


@pytest.mark.slow
def test_parts_of_a_run_in_stages(run, photos, monkeypatch):
    """Each part does its share of all three stages of a comparison."""
    for part in ("1/2", "2/2"):
        code, _, error = run(*COMPARE, "--out", "parts", "--part", part)
        assert code == 0, error
    assert run(*COMPARE, "--out", "whole")[0] == 0
    monkeypatch.setattr(RunFolder, "write", lambda self, name, item: pytest.fail(f"{name} was computed again"))
    assert run(*COMPARE, "--out", "parts")[0] == 0
    assert tables_of("parts") == tables_of("whole")


def test_bad_parts_are_one_line(run, monkeypatch):
    for text in ("3", "0/2", "3/2", "a/b", "1/0"):
        code, _, error = run("sinks", *COMMANDS["sinks"], "--out", "out", "--part", text)
        assert code == 2
        assert f"--part: give which part of how many, such as 3/8, got '{text}'" in error
    code, _, error = run("sinks", *COMMANDS["sinks"], "--out", "out", "--part", "1/2", "--overwrite")
    assert code == 2
    assert "--overwrite would remove the work of the other parts" in error
    assert not Path("out").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="processes that were launched together share the work by themselves"):
        share_of_part("1/2")


def units(log, names="abcd"):
    def make(name):
        log.append(name)
        return xr.Dataset({"value": ord(name)}, attrs={"format": FORMAT})

    return [Unit(name, lambda name=name: make(name)) for name in names]


def values(run, log):
    return "".join(chr(int(item["value"])) for item in run.finished(units(log)))


def test_a_process_that_finds_its_units_done_skips_them(tmp_path):
    log = []
    with sharing(WorkerShare(1, 2, is_part=True)):
        for _ in range(2):
            with pytest.raises(ShareDone), RunFolder(tmp_path, {"study": "s"}).open() as run:
                values(run, log)
    assert log == ["b", "c"]
    (tmp_path / "items" / "b.nc").write_bytes(b"cut short")
    with RunFolder(tmp_path, {"study": "s"}).open() as run:
        assert values(run, log) == "abcd"
    assert log == ["b", "c", "a", "b", "d"]


def test_all_processes_are_given_results_that_they_need(tmp_path):
    (tmp_path / "items").mkdir()
    with RunFolder(tmp_path, {"study": "s"}).open() as run:
        values(run, [])
    with sharing(WorkerShare(1, 2)):
        run = RunFolder(tmp_path, {"study": "s"})
        with for_all(), run.open():
            assert values(run, []) == "abcd"
        with stage(), run.open():
            values(run, [])
            pytest.fail("goes on")
        with run.open():
            assert int(run.decision("a", lambda: pytest.fail("is there"))["value"]) == ord("a")


def test_a_decision_is_made_once_and_by_the_first(tmp_path):
    def make(run, made):
        def decide():
            word = values(run, [])  # the others are done here
            made.append(word)
            return xr.Dataset({"value": len(word)}, attrs={"format": FORMAT})

        return decide

    made = []
    with sharing(WorkerShare(1, 2, is_part=True)):
        part = RunFolder(tmp_path, {"study": "s"})
    with pytest.raises(ShareDone), part.open() as run:  # it waits for nobody
        run.decision("length", make(run, made))
    assert made == []
    for _ in range(2):
        with RunFolder(tmp_path, {"study": "s"}).open() as run:
            assert int(run.decision("length", make(run, made))["value"]) == 4
    assert made == ["abcd"]


def test_whole_runs_and_parts_keep_out_of_each_other_s_way(tmp_path, monkeypatch):
    monkeypatch.setattr("mmdit_probe.storage.locks.BRIEFLY", 0.05)
    first, second = (share_of_part(f"{number}/2") for number in (1, 2))

    def folder(share=None, **settings):
        with sharing(share):
            return RunFolder(tmp_path, {"study": "s", **settings})

    with folder().open(), pytest.raises(ValueError, match="is in use by another run"):
        folder(first).open().__enter__()
    with folder(first).open():
        with folder(second).open():
            assert sorted(path.name for path in tmp_path.glob(".lock-*")) == [".lock-1-of-2", ".lock-2-of-2"]
        for other in (None, first):
            with pytest.raises(ValueError, match="is in use by another run"):
                folder(other).open().__enter__()
        with pytest.raises(ValueError, match=r"holds a run with other settings \(seed\)"):
            folder(second, seed=1).open().__enter__()  # also before anything is finished
    (tmp_path / ".lock-9-of-9").touch()  # of a part that was killed
    with folder_lock(tmp_path):
        assert not list(tmp_path.glob(".lock-*"))


SLOW = """
import os, time
from pathlib import Path
from mmdit_probe.studies import image_grid

rank, generate = os.environ.get("RANK", "0"), image_grid.generate_batch

def slowly(*arguments):
    Path(f"pid{rank}").write_text(str(os.getpid()))
    time.sleep(0.3)
    return generate(*arguments)

image_grid.generate_batch = slowly
"""
KILLED = ["perturb", *IMAGES, "--layers", "all", "--seeds", "0,1,2,3"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_loses_nothing_that_was_finished(run, tmp_path, one_thread, random_folder, rank):
    """torchrun stops the others; started again they compute what is missing."""
    out, arguments = tmp_path / "two", [*KILLED, "--model", str(random_folder)]
    (tmp_path / "start.py").write_text(f"{SLOW}\nfrom mmdit_probe.cli import main\n\nmain()\n")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "start.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launched = subprocess.Popen(
        [*program, *arguments, "--out", str(out)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    while len(list(out.glob("items/*.nc"))) < 5:
        assert launched.poll() is None, launched.communicate()[1]
        time.sleep(0.05)
    os.kill(int((tmp_path / f"pid{rank}").read_text()), signal.SIGKILL)
    launched.communicate(timeout=120)
    assert launched.returncode != 0
    left = {path.name: path.stat().st_mtime_ns for path in out.glob("items/*.nc")}
    assert 5 <= len(left) < 32
    in_two_processes([*arguments, "--out", str(out)], tmp_path)
    assert left.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("items/*.nc")}.items()
    assert run(*KILLED, "--out", "one")[0] == 0
    assert tables_of(out) == tables_of("one")


@pytest.mark.slow
def test_a_part_that_is_killed_is_started_again(run, tmp_path, one_thread, random_folder):
    arguments = [*KILLED, "--out", "parts"]
    (tmp_path / "start.py").write_text(f"{SLOW}\nfrom mmdit_probe.cli import main\n\nmain()\n")
    part = subprocess.Popen(
        [sys.executable, "start.py", *arguments, "--model", str(random_folder), "--part", "1/2"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while len(list(Path("parts/items").glob("*.nc"))) < 3:
        assert part.poll() is None
        time.sleep(0.05)
    part.kill()
    part.wait()
    for text in ("2/2", "1/2"):
        assert run(*arguments, "--part", text)[0] == 0
    assert run(*arguments)[0] == 0
    assert run(*KILLED, "--out", "one")[0] == 0
    assert tables_of("parts") == tables_of("one")
    table = pd.read_csv("one/perturb_metrics.csv")
    assert len(table) == 2 * 4 * 4
