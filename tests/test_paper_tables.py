"""The paper's figures beside ours: rows for what is there, notes for what is not."""

import dataclasses

import models_rivals as small
import numpy as np
import pytest

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.pipelines import ModelDefaults
from mmdit_probe.readouts import I2TMaps
from mmdit_probe.rivals import paper_rows
from mmdit_probe.rivals.configs import DiffSegConfig
from mmdit_probe.rivals.paper_rows import system_row
from mmdit_probe.segmentation import paper_tables, reading
from mmdit_probe.segmentation.evaluation import run_evaluation
from mmdit_probe.segmentation.evaluation_tables import tabulate
from mmdit_probe.segmentation.paper_tables import beside_the_paper, seg4diff_row, told
from mmdit_probe.segmentation.reading import MapReader

CONFIG = EvaluateConfig(limit=2)


def test_rows_for_what_is_there_and_notes_for_what_is_not(random_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "model_defaults", lambda pipe: ModelDefaults(1))
    loaded = []

    def load(source, lora=None):
        loaded.append((source, lora))
        if source == "gone":
            raise ValueError("model 'gone' can't be reached")
        return random_pipe

    rows = {
        "ours": seg4diff_row(load, "random"),
        "theirs": seg4diff_row(load, "gone"),
        "tuned": seg4diff_row(load, "random", "lora"),
        "unnamed": seg4diff_row(load, "random", None),
    }
    roots = {"scenes": None, "voc20": tmp_path / "none"}
    table = beside_the_paper(rows, roots, {("ours", "scenes"): 50.0}, CONFIG, tmp_path / "out")
    found = table.set_index(["system", "dataset"])
    config = dataclasses.replace(CONFIG, layers=(1,))
    expected = run_evaluation(random_pipe, open_dataset("scenes", limit=2), config, tmp_path / "x", "random")
    ours = 100 * tabulate(expected).views["miou"].item()
    assert found.loc[("ours", "scenes"), "ours"] == pytest.approx(ours)
    assert found.loc[("ours", "scenes"), "paper"] == 50
    assert "is no folder here" in found.loc[("ours", "voc20"), "note"]
    assert found.loc[("theirs", "scenes"), "note"] == "model 'gone' can't be reached"
    assert "no checkpoint is named" in found.loc[("unnamed", "scenes"), "note"]
    assert np.isnan(found.loc[("theirs", "scenes"), "ours"])
    assert loaded == [("random", None), ("gone", None), ("random", "lora")]
    assert paper_tables.expert_layer(random_pipe) == 1
    text = told(table).splitlines()
    assert text[1].split() == ["ours", f"{ours:.1f}", "/", "50.0", "-", "/", "-"]
    assert "not run: theirs on scenes, voc20: model 'gone' can't be reached" in text


@pytest.mark.parametrize(("method", "task"), [("diffsegmenter", "open-vocabulary"), ("diffseg", "unsupervised")])
def test_rival_rows_are_evaluated_as_their_papers_do(method, task, tmp_path, monkeypatch):
    pipe, made = small.stable_diffusion(), []
    original = paper_rows.unet_system

    def recorded(name, pipe, config):
        made.append(config)
        return original(name, pipe, dataclasses.replace(config, side=64))

    monkeypatch.setattr(paper_rows, "unet_system", recorded)
    rows = {"rival": system_row(method, "somewhere", lambda source: pipe)}
    roots = {"scenes": None, "cityscapes": tmp_path / "none"}
    table = beside_the_paper(rows, roots, {}, EvaluateConfig(task=task, limit=1), tmp_path / "out")
    assert 0 <= table["ours"].iloc[0] <= 100
    assert "--root" in table["note"].iloc[1]
    if method == "diffseg":
        assert made == [DiffSegConfig(), DiffSegConfig(threshold=0.9)]
    ready = rows["rival"].load()(EvaluateConfig(task=task))
    assert ready.config.crop == ("center" if task == "unsupervised" else "stretch")
    assert ready.config.vocabulary == "present"
    gone = system_row("proxyclip", "no-such-folder", lambda source: pipe)
    with pytest.raises(ValueError, match="CLIP 'no-such-folder' could not be loaded"):
        gone.load()


def test_other_families_are_refused_in_one_line():
    from diffusers import CogView4Transformer2DModel

    cogview = CogView4Transformer2DModel(in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        out_channels=4, text_embed_dim=16, time_embed_dim=8, condition_dim=4, rope_axes_dim=(8, 8))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"pictures can be read by Stable Diffusion 3, 3\.5, Flux.1, .*; this is a model of Cog"
    ):
        MapReader(cogview, I2TMaps(), [0], [8])
