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
