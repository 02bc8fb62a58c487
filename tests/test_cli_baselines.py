"""The baselines through segment, group and evaluate as a user runs them, on small models in folders."""

import json
from dataclasses import replace
from pathlib import Path

import models_baselines as small
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmdit_probe.baselines.comparison import Comparison, ComparisonConfig
from mmdit_probe.baselines.registry import METHODS, source_of, task_of
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.segmentation.image_files import FILES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of every backbone."""
    root = tmp_path_factory.mktemp("backbones")
    small.stable_diffusion().save_pretrained(root / "sd")
    small.stable_diffusion_xl().save_pretrained(root / "sdxl")
    model, processor = small.clip()
    model.save_pretrained(root / "clip")
    processor.save_pretrained(root / "clip")
    small.dino().save_pretrained(root / "dino")
    small.sam().save_pretrained(root / "sam")
    return root


@pytest.fixture
def image(tmp_path):
    Image.fromarray(scene("val", 0).image).save(tmp_path / "scene.png")
    return "scene.png"


def shrink(monkeypatch, method):
    """The method's settings for small images."""
    from mmdit_probe.baselines import registry as systems

    entry = systems.SYSTEMS[method]
    sizes = {"side": 48, "crop": 32, "stride": 16} if entry.kind == "clip" else {"side": 64}
    more = {"points": 2, "iou": -9.0} if method == "corrclip" else {}
    monkeypatch.setitem(systems.SYSTEMS, method, replace(entry, config=replace(entry.config, **sizes, **more)))


@pytest.mark.parametrize("method", ["diffsegmenter", "iseg", "proxyclip", "corrclip", "diffseg", "diffcut"])
def test_every_system_is_evaluated_on_scenes_from_folders(run, folders, tmp_path, monkeypatch, method):
    shrink(monkeypatch, method)
    backbone = {"proxyclip": "clip", "corrclip": "clip", "diffcut": "sdxl"}.get(method, "sd")
    extra = ["--dino-backbone", str(folders / "dino")] if backbone == "clip" else []
    extra += ["--sam", str(folders / "sam")] if method == "corrclip" else []
    command = ["evaluate", "scenes", "--method", method, "--limit", "2", "--batch", "1", *extra]
    code, out, err = run(*command, "--model", str(folders / backbone), model=False)
    assert code == 0, err
    assert f"{method}: " in out
    assert "images a second" in out
    table = pd.read_csv("results/evaluate/evaluate.csv")
    assert table["method"].unique() == [method]
    assert list(table.columns[:6]) == ["method", "matching", "pacc", "macc", "miou", "miou_absent_zero"]
    assert not (tmp_path / "results" / "evaluate" / "evaluate.pdf").exists()
    again = run(*command, "--model", str(folders / backbone), model=False)
    assert again[1] == out


@pytest.mark.parametrize("refine", ["diffsegmenter", "iseg", "corrclip-vote"])
def test_refined_masks_of_a_image(run, image, refine, folders):
    masks = ["--sam", str(folders / "sam")] if refine == "corrclip-vote" else []
    more = ["--layer", "1", "--refine", refine, "--refine-steps", "3", "--refine-entropy", "0.1", *masks]
    code, out, err = run("segment", image, "--classes", "grass,circle", *more)
    assert code == 0, err
    assert "layer 1, timestep 8" in out
    settings = json.loads(Path("results/segment/run.json").read_text())
    assert settings["refine"] == refine
    assert settings["baseline"] == {"steps": 3, "iterations": 3, "entropy": 0.1, "word_scale": 1.6, "regions": 12}


@pytest.mark.parametrize("method", ["diffseg", "diffcut"])
def test_regions_of_an_mmdit_by_a_baseline(run, image, method):
    code, out, err = run("group", image, "--layer", "1", "--method", method, "--threshold", "0.7", "--json")
    assert code == 0, err
    assert sum(row["share"] for row in json.loads(out)["table"]) == pytest.approx(1)
    code, out, err = run("evaluate", "scenes", "--method", method, "--limit", "2", "--layers", "0,2")
    assert code == 0, err
    table = pd.read_csv("results/evaluate/evaluate.csv")
    assert sorted(table["layer"].unique()) == [0, 2]
    assert "layer" in out


def test_whole_systems_write_the_same_files(run, image, folders, tmp_path, monkeypatch):
    shrink(monkeypatch, "diffseg")
    shrink(monkeypatch, "proxyclip")
    small_side = ["--model", str(folders / "sd")]
    code, out, err = run("group", image, "--method", "diffseg", *small_side, model=False)
    assert code == 0, err
    assert out.startswith("diffseg\n")
    assert all((tmp_path / "results" / "group" / f"scene_{kind}").is_file() for kind in FILES)
    more = ["--method", "proxyclip", "--model", str(folders / "clip"), "--dino-backbone", str(folders / "dino")]
    code, _, err = run("segment", image, "--classes", "grass,circle", *more, model=False)
    assert code == 0, err
    labels = np.asarray(Image.open(tmp_path / "results" / "segment" / "scene_labels.png"))
    assert labels.shape == (64, 64)
    assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "scenes", "--method", "iseg", "--refine", "i2i"], "--refine is for seg4diff's maps"),
        (["evaluate", "scenes", "--method", "diffseg", "--task", "open-vocabulary"], "does the unsupervised task"),
        (["evaluate", "scenes", "--sam", "sam"], "--sam is for method corrclip"),
        (["evaluate", "scenes", "--dino-backbone", "x"], "is for method proxyclip or corrclip"),
        (["evaluate", "scenes", "--method", "iseg", "--layers", "3"], "--layers is about an MM-DiT's maps"),
        (["evaluate", "scenes", "--method", "iseg", "--threshold", "1"], "--threshold is for seg4diff, diffseg"),
        (["evaluate", "scenes", "--method", "iseg"], "needs a Stable Diffusion U-Net pipeline"),
        (["evaluate", "scenes", "--refine", "corrclip-vote", "--sam", "none"], "SAM 'none' is neither a folder here"),
        (["evaluate", "scenes", "--method", "diffcut", "--threshold", "0"], "threshold must be above 0"),
        (["group", "scene.png", "--method", "diffseg", "--threshold", "-1"], "--threshold must be above 0"),
        (["segment", "scene.png", "--classes", "a", "--method", "iseg", "--layer", "1"], "--layer is about an MM-DiT"),
        (["segment", "scene.png", "--classes", "a", "--method", "iseg", "--layer", "9"], "--layer is about an MM-DiT"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, image, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "results").exists()


def test_methods_have_a_task_and_a_source():
    assert [task_of(method, None) for method in METHODS[:2]] == ["open-vocabulary"] * 2
    assert task_of("seg4diff", "unsupervised") == "unsupervised"
    assert source_of("diffseg", "tiny-sd3") == "tiny-sd3"
    assert source_of("iseg", "tiny-sd3") == "stabilityai/stable-diffusion-2-1-base"
    assert source_of("iseg", "mine") == "mine"
    with pytest.raises(ValueError, match="method must be one of seg4diff"):
        task_of("magic", None)


def test_the_comparison_has_every_row_and_chooses_on_other_scenes(tiny, tmp_path):
    thresholds = {"seg4diff": (0.05, 0.5), "diffseg": (0.3, 9.0), "diffcut": (0.2, 0.6)}
    said = []
    lora = tmp_path / "mine.safetensors"
    lora.write_bytes(b"trained")
    comparison = Comparison(
        tiny,
        "tiny-sd3",
        ComparisonConfig(2, 2, batch=2, thresholds=thresholds, entropies=(0.2,), iterations=(1, 2)),
        tmp_path,
        said.append,
        magnet=tiny,
        lora=str(lora),
    )
    tuning = comparison.tuning()
    assert list(tuning.groupby("method")["miou"].count()) == [2, 2, 2, 2, 2]
    table = comparison.table(tuning)
    rows = table.set_index("system")
    steps = int(tuning[tuning["method"] == "iseg"].sort_values("miou")["iterations"].iloc[-1])
    tuned = f"iseg (tuned: entropy 0.2, {steps} iterations)"
    refined = [f"Seg4Diff + {name}" for name in ("diffsegmenter", "iseg", "corrclip-vote", tuned, "MAGNET")]
    assert list(rows.index[:6]) == ["Seg4Diff", *refined]
    best = tuning[tuning["method"] == "diffseg"].sort_values("miou")["threshold"].iloc[-1]
    assert rows.loc["DiffSeg on MM-DiT (tuned)", "threshold"] == best
    assert rows.loc["DiffSeg on MM-DiT (released)", "threshold"] == 1.1
    assert rows.loc["Seg4Diff", "miou"] == pytest.approx(rows.loc["Seg4Diff + MAGNET", "miou"])
    trained = tuning[tuning["method"] == "magnet"].sort_values("miou")["threshold"].iloc[-1]
    assert rows.loc["Seg4Diff + MAGNET (tuned)", "threshold"] == trained
    assert rows.loc["Seg4Diff + MAGNET (released)", "threshold"] == 0.1
    assert "k-means on colors" in rows.index
    assert (rows["per_second"].dropna() > 0).all()
    lora.write_bytes(b"trained anew")
    with pytest.raises(ValueError, match=r"other settings \(model\)"):
        comparison.table(tuning)
    assert all(name.startswith("scenes-val-") for name in said[:10])
    assert not any("val" in name for name in said[10:])
