"""perturb, guide and find-expert as a user runs them, on a small random pipeline with a random CLIP."""

import json

import pandas as pd
import pytest

from mmdit_probe.tiny.clip import make_clip, make_processor
from mmdit_probe.tiny.recipe import Recipe
from mmdit_probe.tiny.tokenizer import make_tokenizer

IMAGES = ["--prompt", "a red circle", "--prompt", "sand", "--steps", "2", "--max-sequence-length", "0"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    recipe = Recipe(clip_layers=1, clip_width=32)
    make_clip(recipe, make_tokenizer(24)).save_pretrained(folder)
    make_processor(recipe).save_pretrained(folder)
    return str(folder)


def test_perturb_leaves_sheet_drops_and_scores(run, tmp_path, clip):
    code, out, _ = run("perturb", *IMAGES, "--layers", "all", "--seeds", "0,1", "--clip", clip)
    assert code == 0
    assert "takes most" in out or "no layer lowers it" in out
    folder = tmp_path / "results" / "perturb"
    drops = pd.read_csv(folder / "perturb_drops.csv")
    assert drops["layer"].dropna().unique().tolist() == [0, 1, 2]
    assert drops["layer"].isna().sum() == 2  # plain, for both metrics
    assert (drops["n"] == 2).all()
    assert set(drops["metric"]) == {"clip_t", "clip_i"}
    assert drops[drops["layer"].notna()][["low", "high"]].isna().all(axis=None)  # of two prompts
    assert "too few prompts for an interval (2; 5 needed)" in out
    assert len(pd.read_csv(folder / "perturb_metrics.csv")) == 4 * 2 * 2
    for name in ("perturb_sheet.pdf", "perturb_sheet.png", "perturb_drops.pdf", "perturb_drops.png"):
        assert (folder / name).stat().st_size > 1000


def test_perturb_says_which_layer_it_took_and_why(run, clip, random_folder):
    file = random_folder / "probe_defaults.json"
    file.write_text(json.dumps({"expert_layer": 1, "why": "measured by hand"}))
    try:
        code, _, err = run("perturb", *IMAGES, "--seeds", "0", "--clip", clip)
    finally:
        file.unlink()
    assert code == 0
    assert "layer 1: measured by hand" in err


def test_perturb_edits_both_halves_of_guidance_on_request(run, tmp_path, clip):
    """Without --edit-branch the negative prompt's branch stays as it is, as the help says."""
    command = ["perturb", *IMAGES, "--layer", "1", "--seeds", "0", "--guidance-scale", "7.5", "--clip", clip]
    scores = {}
    for out, rows in (("default", []), ("half", ["--edit-branch", "conditional"]), ("both", ["--edit-branch", "all"])):
        assert run(*command, *rows, "--out", out)[0] == 0
        scores[out] = (tmp_path / out / "perturb_metrics.csv").read_text()
    assert scores["default"] == scores["half"] != scores["both"]


def test_perturb_asks_for_a_layer_where_none_is_known(run, clip):
    code, _, err = run("perturb", *IMAGES, "--clip", clip)
    assert code == 2
    assert "no expert layer is known for this model: give --layer N, or --layer auto" in err


def test_layer_auto_is_found(run, clip):
    code, out, err = run("perturb", *IMAGES, "--layer", "auto", "--seeds", "0", "--clip", clip, "--json")
    assert code == 0
    assert "found by find-expert: its attention to the words says most of places" in err
    assert len(json.loads(out)["table"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "3"], "layers 0 to 2, got 3"),
        (["--layer", "first"], "got 'first'"),
        (["--layer", "1", "--layers", "all"], "expected numbers separated by commas"),
        (["--layer", "1", "--seeds", "a"], "--seeds: expected numbers"),
        (["--layer", "1", "--kernel", "4"], "kernel must be odd"),
        (["--layer", "1", "--sigma", "0"], "--sigma must be above 0"),
        (["--layer", "1", "--edit", "bypass", "--edge", "T2I"], "Bypass: this edit does not change one edge alone"),
        (["--layer", "1", "--edit", "knockout", "--edge", "I2R"], "edge I2R is of reference images, which"),
        (["--layer", "1", "--edge", "I2X"], "'I2X' is not one of 'I2I', 'I2T'"),
        (["--layer", "1", "--references", "1"], "references choose reference images; edge I2T has none"),
    ],
)
def test_perturb_refuses_in_one_line(run, tmp_path, clip, arguments, message):
    code, out, err = run("perturb", *IMAGES, "--clip", clip, *arguments)
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not list(tmp_path.rglob("*.nc"))


def test_a_score_model_is_asked_for(run):
    code, _, err = run("perturb", *IMAGES, "--layer", "1")
    assert code == 2
    assert "name a CLIP" in err


def test_guide_compares_scales(run, tmp_path, clip):
    code, out, _ = run("guide", *IMAGES, "--layer", "1", "--scale", "0,2.5", "--seeds", "0", "--clip", clip)
    assert code == 0
    assert "clip_t, scale 2.5:" in out
    assert "no verdict: too few prompts" in out or "does not raise it" in out
    gains = pd.read_csv(tmp_path / "results" / "guide" / "guide_gains.csv")
    assert list(gains["scale"]) == [0, 2.5]
    assert {"gain", "low", "high"} <= set(gains)
    assert (tmp_path / "results" / "guide" / "guide_sheet.pdf").exists()


@pytest.mark.parametrize("scale", ["x", "1e9"])
def test_guide_refuses_in_one_line(run, clip, scale):
    code, _, err = run("guide", *IMAGES, "--layer", "1", "--scale", scale, "--clip", clip)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: ")


def test_help_says_that_turning_guidance_off_depends_on_the_pipeline(run):
    code, out, _ = run("guide", "--help", model=False)
    words = " ".join(out.replace("│", " ").split())
    assert code == 0
    assert "turns that off at 1 for SD3 and most pipelines and at 0 for Z-Image" in words
    assert "depends on the pipeline: 1 for most, 0 for Z-Image" in words


def test_find_expert_finds_a_layer(run, tmp_path):
    code, out, _ = run("find-expert", *IMAGES, "--timestep", "1")
    assert code == 0
    assert "found by find-expert" in out
    assert len(pd.read_csv(tmp_path / "results" / "find-expert" / "expert.csv")) == 3


def test_find_expert_refuses_a_timestep_out_of_range(run):
    code, _, err = run("find-expert", *IMAGES, "--timestep", "3")
    assert code == 2
    assert "must be in 1 to 2" in err
