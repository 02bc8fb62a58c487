"""The search for the expert layer: its signs on made-up maps, and the search on a random pipeline."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import ExpertConfig, GenerationConfig
from mmdit_probe.datasets.scenes import scenes
from mmdit_probe.figures.expert import expert_figure
from mmdit_probe.pipelines.defaults import model_defaults
from mmdit_probe.pipelines.forward import noise_level
from mmdit_probe.studies import expert_layer
from mmdit_probe.studies.expert_layer import SIGNS, agreement, coherence, find_expert, selectivity, with_masks
from mmdit_probe.studies.scene_grounding import measure_layers

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=2)
CHESS = np.indices((8, 8)).sum(0) % 2


def test_coherence_of_regions_noise_and_a_chessboard():
    halves = np.zeros((1, 8, 8))
    halves[:, :, 4:] = 1
    noise = np.random.default_rng(0).normal(size=(50, 8, 8))
    assert coherence(halves) > 0.8
    assert abs(coherence(noise)) < 0.1
    assert coherence(CHESS[None].astype(float)) == pytest.approx(-1)


def test_coherence_knows_no_unit():
    maps = np.random.default_rng(0).uniform(size=(3, 6, 5))
    assert coherence(7 * maps + 3) == pytest.approx(coherence(maps))


def test_coherence_equals_morans_i():
    maps = np.random.default_rng(0).uniform(size=(1, 4, 5))
    z = maps[0] - maps[0].mean()
    pairs = [z[i, j] * z[i + 1, j] for i in range(3) for j in range(5)]
    pairs += [z[i, j] * z[i, j + 1] for i in range(4) for j in range(4)]
    assert coherence(maps) == pytest.approx(np.mean(pairs) / (z**2).mean())


def test_certainty_is_one_for_words_apart_and_zero_for_words_together():
    apart = np.stack([CHESS, 1 - CHESS]).astype(float)
    assert selectivity(apart) == pytest.approx(1, abs=1e-6)
    assert selectivity(np.ones((3, 4, 4))) == pytest.approx(0, abs=1e-6)
    assert selectivity(apart * np.array([1.0, 50.0])[:, None, None]) == pytest.approx(1, abs=1e-6)
    assert selectivity(np.ones((1, 4, 4))) == 0


def test_the_search_ranks_every_layer(random_pipe):
    done = []
    expert = find_expert(
        random_pipe,
        ExpertConfig(prompts=("a red circle", "sand"), timestep=1, generation=GENERATION),
        lambda a, b: done.append((a, b)),
    )
    assert done == [(1, 2), (2, 2)]
    assert list(expert.table["layer"]) == [0, 1, 2]
    for sign in SIGNS:
        assert sorted(expert.table[f"rank_{sign}"]) == [1, 2, 3]
    assert expert.layer == expert.table.loc[expert.table["mean_rank"].idxmin(), "layer"]
    assert "mean rank" in expert.why
    assert (expert.table["blur_sensitivity"] > 0).all()
    assert not random_pipe.transformer._forward_pre_hooks
    assert len(expert_figure(expert.table).axes) == 4


def test_masks_are_measured_at_the_searchs_own_noise_level_and_text_length(random_pipe):
    """Timestep 2 of 4 is another noise level than 2 of 28."""
    table = pd.DataFrame({"layer": [0, 1, 2]})
    found = with_masks(random_pipe, table, 2, 2, steps=4, max_sequence_length=3)
    expected = measure_layers(random_pipe, list(scenes("test", 2)), 2, 0, 3, 4).masks
    assert expected["sigma"].iloc[0] == pytest.approx(noise_level(random_pipe, 2, 4))
    np.testing.assert_array_equal(found["miou"], expected["miou"].iloc[:3])
    default = with_masks(random_pipe, table, 2, 2, max_sequence_length=3)
    assert (found["miou"] != default["miou"]).any()


def test_masks_have_the_models_own_text_length_by_default(random_pipe, monkeypatch):
    asked = []

    def noted(pipe, scenes, timestep, seed, max_sequence_length, steps, progress):
        asked.append((timestep, steps, max_sequence_length))
        return measure_layers(pipe, scenes, timestep, seed, 0, steps, progress)

    monkeypatch.setattr(expert_layer, "measure_layers", noted)
    with_masks(random_pipe, pd.DataFrame({"layer": [0]}), 1, 8)
    with_masks(random_pipe, pd.DataFrame({"layer": [0]}), 1, 1, steps=2, max_sequence_length=5)
    assert asked == [(8, 28, model_defaults(random_pipe).max_sequence_length), (1, 2, 5)]


def test_agreement_is_spearmans():
    table = pd.DataFrame({"layer": [0, 1, 2], "miou": [0.1, 0.5, 0.3], "mean_rank": [3.0, 1.0, 2.0]})
    table = table.assign(miou_low=0.1, miou_high=0.6, scenes=60)
    table = table.assign(
        value_norm_ratio=[1, 3, 2], coherence=[3, 1, 2], selectivity=[0, 2, 1], blur_sensitivity=[0, 2, 1]
    )
    lines = agreement(table)
    assert lines[0] == (
        "Best masks on scenes: layer 1, 50.0% mIoU (95% interval 10.0 to 60.0; n = 60 scenes); mean rank 1.00."
    )
    assert [line[-5:] for line in lines[1:]] == ["+1.00", "-1.00", "+1.00", "+1.00", "+1.00"]
