"""Output folders: one run in each, its files and no other's; --overwrite removes exactly them, --from repeats it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdit_probe.storage.files import announce, write_text
from mmdit_probe.storage.invocation import running_command, started
from mmdit_probe.storage.records import FORMAT
from mmdit_probe.storage.run_file import RUN_FILE, erase_run, read_run
from mmdit_probe.storage.runs import RunFolder

FEW = ["--steps", "1"]
PROMPT = ["--prompt", "a red circle"]
IMAGES = ["--steps", "1", "--seeds", "0", "--clip", "tiny-clip", *PROMPT]
COMMANDS = {
    "attention-budget": [*PROMPT, *FEW],
    "value-norms": [*PROMPT, *FEW],
    "maps": [*PROMPT, *FEW, "--words", "circle"],
    "pca": [*PROMPT, *FEW],
    "analyze": [*PROMPT, *FEW],
    "explore": [*PROMPT, *FEW, "--out", "results/explore/page.html"],
    "report": [*PROMPT, *FEW, "--out", "results/report/page.html"],
    "find-expert": [*PROMPT, "--steps", "2"],
    "perturb": [*IMAGES, "--layer", "1"],
    "guide": [*IMAGES, "--layer", "1", "--scales", "0,1"],
    "patch": ["--from", "a red circle", "--to", "sand", *FEW, "--clip", "tiny-clip"],
    "find-heads": [*IMAGES, "--prompt", "sand", "--layer", "1", "--most", "1"],
    "bind": [*PROMPT, "--region", "circle=0,0,0.5,1", "--layer", "1", *FEW],
    "segment": ["photo.png", "--classes", "red,circle", "--layer", "1"],
    "group": ["photo.png", "--layer", "1"],
    "evaluate": ["scenes", "--limit", "2"],
}
OTHER = {  # the same command with other settings
    "maps": ["--words", "red"],
    "segment": ["--seed", "1"],
    "group": ["--threshold", "0.2"],
    "evaluate": ["--limit", "3"],
}


@pytest.fixture
def photo(tmp_path):
    made = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(made).save(tmp_path / "photo.png")
    return made


def files(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_folder_of_its_own_that_can_be_repeated(run, photo, monkeypatch, tmp_path, command):
    out = Path("results", command)
    code, _, error = run(command, *COMMANDS[command])
    assert code == 0, error
    first = files(out)
    assert {"run.json"} < first
    asked = json.loads((out / "run.json").read_text())["run"]
    assert asked["command"] == command
    assert set(asked["files"]) == {name for name in first if name != "run.json" and not name.startswith("items/")}

    (out / "notes.txt").write_text("mine")
    other = OTHER.get(
        command, ["--seeds", "1"] if command in ("perturb", "guide", "bind", "find-heads") else ["--seed", "1"]
    )
    code, _, error = run(command, *COMMANDS[command], *other)
    assert code == 2
    assert error.startswith(f"error: {out} holds a run with other settings (")
    assert "add --overwrite to remove exactly the files of that run first" in error.splitlines()[-1]
    assert files(out) == first | {"notes.txt"}
    tables = {path.name: path.read_bytes() for path in out.glob("*.csv")}

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    target = ["--out", "again/page.html"] if command in ("explore", "report") else ["--out", "again"]
    code, _, error = run(command, "--from-run", str(tmp_path / out / "run.json"), *target, model=False)
    assert code == 0, error
    assert files("again") == first
    kept = {path.name: path.read_bytes() for path in Path("again").glob("*.csv")}
    if command != "evaluate":  # its tables say how long it took
        assert kept == tables


def test_a_figure_of_an_earlier_run_does_not_stay(run):
    out = ["--layers", "1", "--out", "out"]
    assert run("maps", *PROMPT, *FEW, "--words", "red,circle", *out)[0] == 0
    before = files("out")
    Path("out/notes.txt").write_text("mine")
    assert run("maps", *PROMPT, *FEW, "--words", "circle", *out, "--overwrite")[0] == 0
    assert files("out") == before - {"map_red.png", "map_red.pdf"} | {"notes.txt"}
    code, _, error = run("pca", *PROMPT, *FEW, *out)
    assert code == 2
    assert "out holds a run with other settings" in error


def test_other_images_are_another_run_and_more_images_go_on(run, photo, tmp_path):
    Image.fromarray(photo[::-1]).save(tmp_path / "second.png")
    arguments = ["--classes", "red", "--layer", "1", "--out", "out"]
    assert run("segment", "photo.png", *arguments)[0] == 0
    code, _, error = run("segment", "second.png", *arguments)
    assert code == 2
    assert "out holds photo_labels.png and more of an earlier run that this one does not include" in error
    assert not any(name.startswith("second") for name in files("out"))
    assert run("segment", "photo.png", "second.png", *arguments)[0] == 0
    assert run("segment", "second.png", *arguments, "--overwrite")[0] == 0
    assert not any(name.startswith("photo") for name in files("out"))


def test_a_file_of_the_users_own_is_not_written_over(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "maps.csv").write_text("mine")
    code, _, error = run("maps", *PROMPT, *FEW, "--words", "circle", "--out", "out", "--overwrite")
    assert code == 2
    assert "maps.csv is there already and not of this run" in error
    assert (tmp_path / "out" / "maps.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ("{", "run.json is damaged"),
        ('{"run": {"files": ["../x"]}}', "run.json is damaged"),
        ('{"run": {"files": []}}', "is of a run that no command made"),
        ('{"run": {"files": [], "command": "pca"}}', "is of `mmdit-probe pca`, not of `mmdit-probe maps`"),
    ],
)
def test_what_cannot_be_repeated_says_why(run, tmp_path, content, message):
    (tmp_path / "old").mkdir()
    if content is not None:
        (tmp_path / "old" / RUN_FILE).write_text(content)
    code, out, error = run("maps", "--from", "old")
    assert (code, out) == (2, "")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_options_given_beside_from_take_the_place_of_its_own(run):
    assert run("maps", *PROMPT, *FEW, "--words", "circle", "--out", "one")[0] == 0
    assert run("maps", "--from", "one", "--words", "red", "--out", "two", model=False)[0] == 0
    assert "map_red.png" in files("two")
    assert "map_circle.png" not in files("two")


def test_prompts_of_a_file_are_repeated_though_the_file_has_gone(run, tmp_path):
    (tmp_path / "list.txt").write_text("a red circle\nsand\n")
    assert run("attention-budget", "--prompts", "list.txt", *FEW, "--out", "one")[0] == 0
    (tmp_path / "list.txt").unlink()
    code, _, error = run("attention-budget", "--from", "one/run.json", "--out", "two", model=False)
    assert code == 0, error
    assert (tmp_path / "one" / "attention_budget.csv").read_bytes() == (
        tmp_path / "two" / "attention_budget.csv"
    ).read_bytes()


def test_a_run_that_fails_keeps_the_earlier_one_that_it_would_replace(run, photo):
    arguments = ["segment", "photo.png", "--layer", "1", "--out", "out", "--classes"]
    assert run(*arguments, "red")[0] == 0
    before = files("out")
    assert run(*arguments, "circle", "--overwrite", "--model", "nowhere/at-all", model=False)[0] == 2
    assert files("out") == before


def item():
    import xarray as xr

    return xr.Dataset({"x": 1.0}, attrs={"format": FORMAT})


def test_runs_in_folders_below_are_removed_with_the_one_around_them(tmp_path):
    out = tmp_path / "out"
    with started("compare", {}), RunFolder(out, {"a": 1}).open():
        with RunFolder(out / "part", {"b": 1}).open() as part:
            part.write("one", item())
            write_text(out / "part" / "table.csv", "1")
        write_text(out / "sub" / "figure.pdf", "2")
        announce(out / "logs", is_folder=True)
        (out / "logs").mkdir()
        (out / "logs" / "events").write_text("3")
    assert read_run(out).files == ["part/run.json", "sub/figure.pdf", "logs/"]
    assert read_run(out / "part").files == ["table.csv"]
    (out / "part" / "mine.txt").write_text("")
    erase_run(out)
    assert files(out) == {"part/mine.txt"}
    assert running_command() is None


def test_a_run_that_was_killed_before_it_had_anything_is_no_run(tmp_path):
    RunFolder(tmp_path, {"a": 1}).check()
    write_text(tmp_path / RUN_FILE, '{"a": 1, "run": {"files": ["table.csv"]}}')
    with RunFolder(tmp_path, {"a": 2}).open() as run:
        run.write("one", item())
    with pytest.raises(ValueError, match=r"other settings \(a\); choose another folder or delete it"):
        RunFolder(tmp_path, {"a": 1}).check()


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    out, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    (away / "precious.csv").write_text("")
    with RunFolder(out, {"a": 1}).open():
        write_text(out / "logs" / "x.csv", "")
        write_text(out / "y.csv", "")
    (out / "logs" / "x.csv").unlink()
    (out / "logs").rmdir()
    (out / "logs").symlink_to(away)
    (out / "y.csv").unlink()
    (out / "y.csv").symlink_to(away / "precious.csv")
    (away / "x.csv").write_text("")
    erase_run(out)
    assert files(away) == {"precious.csv", "x.csv"}


def test_the_options_are_in_the_help_of_every_command_with_a_folder(run, monkeypatch, capsys):
    for command in COMMANDS:
        code, out, _ = run(command, "--help", model=False)
        assert code == 0
        assert "--overwrite" in out
        assert "--from" in out
    assert sys.argv[0] == "mmdit-probe"
