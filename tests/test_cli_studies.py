"""The commands that look into layers, each as a user runs it."""

import json
import sys

import pandas as pd
import pytest

from mmdit_probe import load_record
from mmdit_probe.cli import main

FEW = ["--prompt", "a red circle on grass", "--steps", "2", "--timesteps", "1"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, random_folder):
    """Run the command line in an empty folder; returns exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=True):
        chosen = ["--model", str(random_folder)] if model else []
        monkeypatch.setattr(sys, "argv", ["mmdit-probe", *map(str, arguments), *chosen])
        with pytest.raises(SystemExit) as stopped:
            main()
            sys.exit(0)
        output = capsys.readouterr()
        return stopped.value.code or 0, output.out, output.err

    return run


def refused(result, message):
    """The command ended with one line on standard error and exit code 2."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    return True


def test_value_norms_leaves_figures_tables_and_record(run, tmp_path):
    code, out, _ = run("value-norms", *FEW, "--out", "v")
    assert code == 0
    assert "longest text values" in out
    for name in ("value_norms", "value_norms_heads"):
        for kind in ("pdf", "png", "csv"):
            assert f"{name}.{kind}" in out
            assert (tmp_path / "v" / f"{name}.{kind}").stat().st_size > 0
    assert len(pd.read_csv(tmp_path / "v" / "value_norms.csv")) == 3
    assert load_record(tmp_path / "v" / "value_norms.nc")["value_norm"].sizes["prompt"] == 1


def test_value_norms_as_json(run):
    code, out, _ = run("value-norms", *FEW, "--json")
    assert code == 0
    result = json.loads(out)
    assert len(result["table"]) == 3
    assert {"layer", "text_to_image", "prompt_to_image"} <= set(result["table"][0])


def test_value_norms_refuses_bad_input(run):
    assert refused(run("value-norms", "--prompt", "sand", "--timesteps", "29"), "must be in 1 to 28")
    assert refused(run("value-norms", "--prompt", " "), "the prompt is empty")


MAPS = ["maps", "--prompt", "a red circle on grass", "--steps", "2", "--timesteps", "1"]


def test_maps_leaves_a_page_a_word(run, tmp_path):
    code, out, _ = run(*MAPS, "--words", "red circle,grass", "--layers", "0,2", "--heads", "all", "--out", "m")
    assert code == 0
    names = {file.name for file in (tmp_path / "m").iterdir()}
    pages = [
        f"map_{word}{end}.{kind}"
        for word in ("red-circle", "grass")
        for end in ("", "_heads_t1")
        for kind in ("pdf", "png")
    ]
    assert names == {*pages, "maps.csv", "maps.nc", "image.png", "run.json"}
    assert all(name in out for name in names - {"run.json"})
    assert len(pd.read_csv(tmp_path / "m" / "maps.csv")) == 2 * 2
    assert load_record(tmp_path / "m" / "maps.nc").sizes["word"] == 2


def test_maps_reads_a_given_image(run, tmp_path):
    from PIL import Image

    Image.new("L", (300, 140), 200).save(tmp_path / "grey.png")
    code, out, _ = run(*MAPS, "--words", "grass", "--image", "grey.png", "--direction", "t2i", "--out", "m", "--json")
    assert code == 0
    assert len(json.loads(out)["table"]) == 3
    assert (
        "reads the image at 64 x 32 px, 8 x 4 tokens of 8 px: width / height is 2.00, not 2.14"
        in json.loads(out)["summary"][0]
    )
    record = load_record(tmp_path / "m" / "maps.nc")
    assert record["word_map"].shape[-2:] == (4, 8)
    assert record.attrs["source"] == "image"
    with Image.open(tmp_path / "m" / "image.png") as image:
        assert image.size == (64, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", "snow"], "'snow' is not among the prompt's tokens"),
        (["--words", " , "], "words: expected words"),
        (["--words", "grass", "--layers", "9"], "--layers: this model has layers 0 to 2, got 9"),
        (["--words", "grass", "--layers", "x"], "--layers: expected numbers separated by commas"),
        (["--words", "grass", "--timesteps", "3"], "must be in 1 to 2"),
        (["--words", "grass", "--image", "missing.png"], "no file missing.png"),
        (["--words", "grass", "--longest", "64"], "--longest is the size of --image"),
        (["--words", "grass", "--out", "taken"], "taken can't be written"),
    ],
)
def test_maps_refuses_bad_input(run, tmp_path, arguments, message):
    (tmp_path / "taken").write_text("")
    assert refused(run(*MAPS, *arguments), message)
    assert not list(tmp_path.rglob("map_*"))


PCA = ["pca", "--steps", "2", "--timesteps", "1", "--out", "p"]


@pytest.mark.parametrize(
    ("source", "classes"),
    [(["--scenes", "0,3"], True), (["--prompt", "sand"], False), (["--prompt", "", "--image", "a.png"], False)],
)
def test_pca_reads_scenes_and_images(run, tmp_path, source, classes):
    from PIL import Image

    Image.new("RGBA", (80, 80), (200, 10, 10, 90)).save(tmp_path / "a.png")
    code, out, _ = run(*PCA, *source)
    assert code == 0
    assert ("The class explains most" in out) == classes
    names = {file.name for file in (tmp_path / "p").iterdir()}
    pages = {f"{name}.{kind}" for name in ("pca_t1", "pca_r2") for kind in ("pdf", "png")}
    assert names == {*pages, "pca.csv", "pca.nc", "image.png", "run.json"}
    table = pd.read_csv(tmp_path / "p" / "pca.csv")
    assert len(table) == 3 * 3
    assert table["class_r2"].notna().all() == classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --prompt, or --scenes NUMBER"),
        (["--scenes", "0", "--image", "a.png"], "not both"),
        (["--scenes", "-1"], "--scenes must be 0 to"),
        (["--scenes", "first"], "--scenes: expected numbers"),
    ],
)
def test_pca_refuses_bad_input(run, arguments, message):
    assert refused(run(*PCA, *arguments), message)


ANALYZE = ["analyze", "--steps", "2", "--timesteps", "1"]


def test_analyze_and_diff(run, tmp_path):
    for name, prompt in (("a", "a red circle"), ("b", "a red star")):
        code, out, _ = run(*ANALYZE, "--prompt", prompt, "--words", "red", "--out", name)
        assert code == 0
        assert "'red' peaks in layer" in out
    figures = ("attention_budget", "value_norms", "heads", "pca_t1", "pca_r2", "map_red")
    tables = ("attention_budget", "value_norms", "value_norms_heads", "heads", "pca", "maps")
    expected = {f"{name}.{kind}" for name in figures for kind in ("pdf", "png")}
    expected |= {f"{name}.csv" for name in tables} | {"analyze.nc", "image.png", "run.json"}
    assert {file.name for file in (tmp_path / "a").iterdir()} == expected
    code, out, _ = run("diff", "a/analyze.nc", "b/analyze.nc", "--out", "d", model=False)
    assert code == 0
    assert "prompt: a red circle in A, a red star in B" in out
    assert "attention by region (" in out
    assert {file.name for file in (tmp_path / "d").iterdir()} == {"diff.pdf", "diff.png", "diff.csv", "run.json"}
    code, out, _ = run("diff", "a/analyze.nc", "a/analyze.nc", "--out", "same", "--json", model=False)
    assert code == 0
    assert {row["difference"] for row in json.loads(out)["table"]} == {0}


def test_analyze_as_json_takes_a_image(run, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    code, out, _ = run(*ANALYZE, "--prompt", "sand", "--image", "a.png", "--json")
    assert code == 0
    assert set(json.loads(out)["tables"]) >= {"attention_budget", "value_norms", "heads", "pca", "maps"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a.nc", "missing.nc"), "no file missing.nc"),
        (("a.nc", "text.nc"), "text.nc is not a readable NetCDF file"),
        (("a.nc", "b.nc"), "A has layers 0, 1, 2; B has 1"),
    ],
)
def test_diff_refuses_what_does_not_match(run, tmp_path, random_pipe, files, message):
    from mmdit_probe import Probe, RegionMass, save_record

    for name, layers in (("a", None), ("b", [1])):
        with Probe(random_pipe, [RegionMass()], layers=layers) as probe:
            random_pipe("sand", num_inference_steps=1, max_sequence_length=0, output_type="latent")
        save_record(probe.dataset("conditional"), tmp_path / f"{name}.nc")
    (tmp_path / "text.nc").write_text("words")
    assert refused(run("diff", *files, "--out", "d", model=False), message)
    assert not (tmp_path / "d").exists()


def test_analyze_refuses_bad_input(run):
    assert refused(run(*ANALYZE, "--prompt", "sand", "--words", "snow"), "'snow' is not among the prompt's tokens")
    assert refused(run(*ANALYZE, "--prompt", "sand", "--image", "none.png"), "no file none.png")


@pytest.mark.parametrize("command", ["value-norms", "maps", "pca", "analyze", "diff"])
def test_help_says_what_is_written(run, command):
    code, out, _ = run(command, "--help", model=False)
    assert code == 0
    assert "Writes" in out
    assert "--out" in out
