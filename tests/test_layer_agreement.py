"""Masks, features and value norms of each layer, from one pass: the same numbers as from a pass for each."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import AgreementConfig, GenerationConfig, PCAConfig
from mmdit_probe.datasets.scenes import scene, scenes
from mmdit_probe.figures.agreement import agreement_figure
from mmdit_probe.readouts.value_norms import ValueNorms
from mmdit_probe.studies.feature_pca import measure_pca
from mmdit_probe.studies.layer_agreement import layer_agreement, rank_correlations, summary
from mmdit_probe.studies.recording import record_image
from mmdit_probe.studies.scene_grounding import measure_layers

GENERATION = GenerationConfig(max_sequence_length=0)


@pytest.fixture
def table(random_pipe):
    return layer_agreement(random_pipe, AgreementConfig(scenes=2, generation=GENERATION))


def test_the_masks_are_scored_as_the_model_card_does(random_pipe):
    """One scene, for which the two ways draw the same noise."""
    table = layer_agreement(random_pipe, AgreementConfig(scenes=1, generation=GENERATION))
    masks = measure_layers(random_pipe, list(scenes("test", 1)), 8, 0, 0).masks
    np.testing.assert_allclose(table["miou"], masks["miou"].iloc[:3])


def test_features_and_norms_are_those_of_their_studies(random_pipe, table):
    scored, ratios = [], []
    for number in (0, 1):
        names = scene("test", number).class_list()
        config = PCAConfig(prompt=names, scenes=(number,), generation=GENERATION)
        scored.append(measure_pca(random_pipe, config).record["class_r2"].mean("feature").values.ravel())
        record = record_image(random_pipe, scene("test", number).image, names, [ValueNorms()], (8,), GENERATION).record
        ratios.append(record["value_norm"].isel(timestep=0).mean("head").values)
    np.testing.assert_allclose(table["class_r2"], np.mean(scored, 0), rtol=1e-5)
    norms = np.mean(ratios, 0)
    np.testing.assert_allclose(table["text_to_image"], norms[:, 1] / norms[:, 0], rtol=1e-5)
    np.testing.assert_allclose(table["prompt_to_image"], norms[:, 2] / norms[:, 0], rtol=1e-5)
    assert table["sigma"].iloc[0] == pytest.approx(0.515, abs=1e-3)


def frame(**columns):
    base = {"layer": [0, 1, 2, 3], "miou": [0.1, 0.2, 0.9, 0.4]}
    others = {name: [0.0, 1.0, 2.0, 3.0] for name in ("class_r2", "position_r2", "text_to_image", "prompt_to_image")}
    return pd.DataFrame(base | others | columns)


def test_the_same_order_correlates_to_1():
    table = frame(class_r2=[1.0, 4.0, 100.0, 9.0], text_to_image=[4.0, 3.0, 1.0, 2.0])
    assert rank_correlations(table)["class_r2"] == pytest.approx(1)
    assert rank_correlations(table)["text_to_image"] == pytest.approx(-1)
    lines = summary(table)
    assert lines[0] == "The best masks come from layer 2 (90.0% mIoU)."
    assert lines[1] == "The semantic R^2 points at the same layer; rank correlation with mIoU over layers +1.00."
    assert lines[2].startswith("The ratio of text to image value norms points at another layer, 0; rank correlation")


def test_the_figure_marks_the_largest():
    table = frame()
    axes = agreement_figure(table, rank_correlations(table)).axes
    assert axes[0].get_title() == "layer 2"
    assert axes[1].get_title().startswith("layer 3, rank corr. +")
    np.testing.assert_array_equal(axes[1].lines[1].get_ydata(), table["class_r2"])
