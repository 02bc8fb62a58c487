"""The paper's figures beside ours: rows for what is there, notes for what is not."""

import dataclasses

import models_baselines as small
import numpy as np
import pytest

from mmdit_probe.baselines import loaded as loaded_method
from mmdit_probe.baselines.paper_rows import system_row
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.configs.baselines import DiffSegConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.evaluation import paper_tables
from mmdit_probe.evaluation.paper_tables import beside_the_paper, format_table, seg4diff_row
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.pipelines import defaults
from mmdit_probe.pipelines.defaults import ModelDefaults
from mmdit_probe.readouts.maps import I2TMaps
from mmdit_probe.segmentation.map_reader import MapReader

CONFIG = EvaluateConfig(limit=2)


def test_rows_for_what_is_there_and_notes_for_what_is_not(random_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "model_defaults", lambda pipe: ModelDefaults(1))
    loaded = []

    def load(source, device, dtype, lora=None):
        loaded.append((source, device, dtype, lora))
        if source == "gone":
            raise ValueError("model 'gone' can't be reached")
        return random_pipe

    rows = {
        "ours": seg4diff_row(load, "random"),
        "theirs": seg4diff_row(load, "gone"),
        "tuned": seg4diff_row(load, "random", "lora", device="cuda", dtype="fp16"),
        "unnamed": seg4diff_row(load, "random", None),
    }
    roots = {"scenes": None, "voc20": tmp_path / "none"}
    table = beside_the_paper(rows, roots, {("ours", "scenes"): 0.5}, CONFIG, tmp_path / "out")
    found = table.set_index(["system", "dataset"])
    config = dataclasses.replace(CONFIG, layers=(1,))
    expected = run_evaluation(random_pipe, open_dataset("scenes", limit=2), config, tmp_path / "x", "random")
    ours = tabulate(expected).settings["miou"].item()
    assert found.loc[("ours", "scenes"), "ours"] == pytest.approx(ours)
    assert found.loc[("ours", "scenes"), "paper"] == 0.5
    assert "there is no folder" in found.loc[("ours", "voc20"), "note"]
    assert found.loc[("theirs", "scenes"), "note"] == "model 'gone' can't be reached"
    assert "no checkpoint is named" in found.loc[("unnamed", "scenes"), "note"]
    assert np.isnan(found.loc[("theirs", "scenes"), "ours"])
    assert loaded == [
        ("random", "cpu", "fp32", None),
        ("gone", "cpu", "fp32", None),
        ("random", "cuda", "fp16", "lora"),
    ]
    assert rows["tuned"].label == "random, fp16, LoRA lora"
    assert paper_tables.expert_layer(random_pipe) == 1
    text = format_table(table).splitlines()
    assert text[1].split() == ["ours", f"{100 * ours:.1f}", "/", "50.0", "-", "/", "-"]
    assert "not run: theirs on scenes, voc20: model 'gone' can't be reached" in text


@pytest.mark.parametrize(("method", "task"), [("diffsegmenter", "open-vocabulary"), ("diffseg", "unsupervised")])
def test_baseline_rows_are_evaluated_as_their_papers_do(method, task, tmp_path, monkeypatch):
    pipe, made = small.stable_diffusion(), []
    original = loaded_method.unet_system

    def recorded(name, pipe, config):
        made.append(config)
        return original(name, pipe, dataclasses.replace(config, side=64))

    monkeypatch.setattr(loaded_method, "unet_system", recorded)
    rows = {"baseline": system_row(method, "somewhere", lambda source, device, dtype: pipe)}
    roots = {"scenes": None, "cityscapes": tmp_path / "none"}
    table = beside_the_paper(rows, roots, {}, EvaluateConfig(task=task, limit=1), tmp_path / "out")
    assert 0 <= table["ours"].iloc[0] <= 1
    assert "--root" in table["note"].iloc[1]
    if method == "diffseg":
        assert made == [DiffSegConfig(), DiffSegConfig(threshold=0.9)]
    ready = rows["baseline"].load()(EvaluateConfig(task=task))
    assert ready.config.crop == ("center" if task == "unsupervised" else "stretch")
    assert ready.config.vocabulary == "present"
    gone = system_row("proxyclip", "no-such-folder", lambda source, device, dtype: pipe)
    with pytest.raises(ValueError, match="CLIP 'no-such-folder' is neither a folder here"):
        gone.load()


def test_a_lora_trained_anew_is_not_scored_from_old_images(random_pipe, tmp_path, monkeypatch):
    """The row's label holds the LoRA's digest, so that its old folder is refused."""
    monkeypatch.setattr(defaults, "model_defaults", lambda pipe: ModelDefaults(1))
    lora = tmp_path / "lora.safetensors"

    def made(content):
        lora.write_bytes(content)
        rows = {"tuned": seg4diff_row(lambda *_, **__: random_pipe, "random", str(lora))}
        return beside_the_paper(rows, {"scenes": None}, {}, CONFIG, tmp_path / "out").iloc[0]

    first, again, anew = made(b"old"), made(b"old"), made(b"new")
    assert first["ours"] == again["ours"]
    assert np.isnan(anew["ours"])
    assert "holds a run with other settings (model)" in anew["note"]


def test_unlike_protocols_are_noted_beside_the_papers_figures(random_pipe, tmp_path):
    def refused(*_, **__):
        raise ValueError("not here")

    rows = {
        "DiffSeg": system_row("diffseg", "somewhere", refused),
        "DiffCut": system_row("diffcut", "somewhere", refused),
        "Seg4Diff SD3": seg4diff_row(refused, "somewhere"),
    }
    roots = dict.fromkeys(("voc21", "coco-stuff-27", "cityscapes", "cityscapes-27"))
    paper = {(name, dataset): 0.5 for name in rows for dataset in roots if (name, dataset) != ("DiffCut", "cityscapes")}
    config = EvaluateConfig(task="unsupervised", limit=2)
    table = beside_the_paper(rows, roots, paper, config, tmp_path)
    assert list(table.columns) == ["system", "dataset", "paper", "ours", "differs", "note"]
    differs = table.set_index(["system", "dataset"])["differs"]
    assert "2,175 images of val2017, ours all 5,000" in differs["DiffSeg", "coco-stuff-27"]
    assert "2,175" not in differs["DiffSeg", "voc21"]
    assert "27 classes (cityscapes-27), ours 19" in differs["DiffSeg", "cityscapes"]
    assert "classes" not in differs["DiffSeg", "cityscapes-27"]
    assert "background" not in differs["DiffCut", "coco-stuff-27"]
    assert differs["DiffCut", "cityscapes"] == ""  # no figure of the paper's to differ from
    assert "evaluated at the resized size" in differs["Seg4Diff SD3", "voc21"]
    text = format_table(table).splitlines()
    assert "protocol differs: DiffSeg on coco-stuff-27: theirs uses 2,175 images of val2017, ours all 5,000" in text
    size = "theirs is evaluated at 128 px, ours at the image's own size"
    assert f"protocol differs: DiffCut on voc21, coco-stuff-27, cityscapes-27: {size}" in text


def test_names_that_are_paths_stay_inside_the_folder(random_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "model_defaults", lambda pipe: ModelDefaults(1))
    rows = {"../own /model": seg4diff_row(lambda *_, **__: random_pipe, "random")}
    beside_the_paper(rows, {"scenes": None}, {}, CONFIG, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["..-own-model-scenes"]


def test_other_families_are_refused_in_one_line():
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    cogview = CogView4Transformer2DModel(in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        out_channels=4, text_embed_dim=16, time_embed_dim=8, condition_dim=4, rope_axes_dim=(8, 8))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"images can be read by Stable Diffusion 3, 3\.5, Flux.1, .*; this is a model of Cog"
    ):
        MapReader(CogView4Pipeline(None, None, None, cogview, None), I2TMaps(), [0], [8])
