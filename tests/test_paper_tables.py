"""The paper's figures beside ours: rows for what is there, notes for what is not."""

import dataclasses

import numpy as np
import pytest

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.pipelines import ModelDefaults
from mmdit_probe.readouts import I2TMaps
from mmdit_probe.segmentation import paper_tables, reading
from mmdit_probe.segmentation.evaluation import run_evaluation
from mmdit_probe.segmentation.evaluation_tables import tabulate
from mmdit_probe.segmentation.paper_tables import beside_the_paper
from mmdit_probe.segmentation.reading import MapReader

CONFIG = EvaluateConfig(limit=2)


def test_rows_for_what_is_there_and_notes_for_what_is_not(random_pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "model_defaults", lambda pipe: ModelDefaults(1))

    def load(source):
        if source == "gone":
            raise ValueError("model 'gone' can't be reached")
        return random_pipe

    models = {"ours": "random", "theirs": "gone"}
    roots = {"scenes": None, "voc20": tmp_path / "none"}
    table = beside_the_paper(load, models, roots, {("ours", "scenes"): 50.0}, CONFIG, tmp_path / "out")
    rows = table.set_index(["model", "dataset"])
    config = dataclasses.replace(CONFIG, layers=(1,))
    expected = run_evaluation(random_pipe, open_dataset("scenes", limit=2), config, tmp_path / "x", "random")
    assert rows.loc[("ours", "scenes"), "ours"] == pytest.approx(100 * tabulate(expected).views["miou"].item())
    assert rows.loc[("ours", "scenes"), "paper"] == 50
    assert "give its folder by --root" in rows.loc[("ours", "voc20"), "note"]
    assert rows.loc[("theirs", "scenes"), "note"] == "model 'gone' can't be reached"
    assert np.isnan(rows.loc[("theirs", "scenes"), "ours"])
    assert paper_tables.expert_layer(random_pipe) == 1


def test_other_families_are_refused_in_one_line():
    from diffusers import CogView4Transformer2DModel

    cogview = CogView4Transformer2DModel(in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        out_channels=4, text_embed_dim=16, time_embed_dim=8, condition_dim=4, rope_axes_dim=(8, 8))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"pictures can be read by Stable Diffusion 3, 3\.5, Flux.1, .*; this is a model of Cog"
    ):
        MapReader(cogview, I2TMaps(), [0], [8])
