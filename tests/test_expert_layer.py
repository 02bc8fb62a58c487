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
from mmdit_probe.studies.expert_layer import SIGNS, agreement, chosen_expert, expert_lead, find_expert, with_masks
from mmdit_probe.studies.scene_grounding import measure_layers

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=2)


def test_the_search_ranks_every_layer(random_pipe):
    done = []
    expert = find_expert(
        random_pipe,
        ExpertConfig(prompts=("a red circle", "sand"), timestep=1, generation=GENERATION),
        lambda a, b: done.append((a, b)),
    )
    assert done == [(1, 2), (2, 2)]
    assert list(expert.table["layer"]) == [0, 1, 2]
    assert np.isfinite(expert.table[list(SIGNS)]).all(axis=None)
    assert expert.layer == expert.table.loc[expert.table["word_information"].idxmax(), "layer"]
    assert "says most of places" in expert.why
    assert (expert.table["blur_sensitivity"] > 0).all()
    assert not random_pipe.transformer._forward_pre_hooks
    assert len(expert_figure(expert.table).axes) == 5


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
    table = pd.DataFrame({"layer": [0, 1, 2], "miou": [0.1, 0.5, 0.3], "word_information": [0.3, 0.1, 0.2]})
    table = table.assign(miou_low=0.1, miou_high=0.6, scenes=60)
    table = table.assign(
        value_norm_ratio=[1, 3, 2], coherence=[3, 1, 2], selectivity=[0, 2, 1], blur_sensitivity=[0, 2, 1]
    )
    lines = agreement(table)
    assert lines[0] == ("Best masks on scenes: layer 1, 50.0% mIoU (95% interval 10.0 to 60.0; n = 60 scenes).")
    assert [line[-5:] for line in lines[1:]] == ["-1.00", "+1.00", "-1.00", "+1.00", "+1.00"]


def test_the_other_signs_are_named_beside_the_one_that_chooses():
    rng = np.random.default_rng(0)
    signs = pd.DataFrame({"layer": np.repeat([0, 1, 2], 6), "number": np.tile(range(6), 3)})
    for name in SIGNS:
        signs[name] = rng.uniform(0, 0.1, len(signs)) + (signs["layer"] == (0 if name == "coherence" else 2))
    expert = chosen_expert(signs)
    assert expert.layer == 2
    *leads, others = expert_lead(expert)
    assert "outside chance" in leads[0]
    assert "layer 0 by spatial coherence" in others
    assert others.startswith("Of the 4 other signs 3 name it too: ")
    assert expert_lead(chosen_expert(signs[signs["layer"] == 1])) == []
