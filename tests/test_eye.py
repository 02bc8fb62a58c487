"""The hand labels of generated images, and how the reader and the tiny CLIP are held against them."""

import json

import numpy as np
import pytest

from mmdit_probe.configs import EMBEDDED_MODELS
from mmdit_probe.datasets.scenes import scenes
from mmdit_probe.metrics.image_metrics import Clip
from mmdit_probe.metrics.scene_reader import SceneReader
from mmdit_probe.pipelines.loading import embedded_folder
from mmdit_probe.tiny.card import write_card
from mmdit_probe.tiny.export import digests, load_recipe
from mmdit_probe.tiny.eye import (
    LABELS,
    Seen,
    fact_table,
    measure_instruments,
    rank_agreement,
    read_labels,
    reader_agreement,
    stated_facts,
)


@pytest.fixture(scope="module", params=EMBEDDED_MODELS)
def folder(request):
    return embedded_folder(request.param)


@pytest.fixture(scope="module")
def labels(folder):
    return read_labels(folder / LABELS)


@pytest.fixture(scope="module")
def evaluation(folder):
    return json.loads((folder / "evaluation.json").read_text())


def test_the_labels_are_of_the_shipped_weights_and_of_held_out_prompts(labels, folder):
    assert labels.transformer in digests(folder / "transformer").values()
    assert [seen.prompt for seen in labels.images] == [scene.sentence() for scene in scenes("test", 50)]


def test_the_numbers_of_the_eye_in_the_card_follow_from_the_labels(labels, evaluation):
    """The eye's shares need no image: they are counted here by hand."""
    stated = {"ground": 0, "shape": 0, "colored shape": 0}
    seen = dict.fromkeys(stated, 0)
    for image in labels.images:
        for fact, kind in stated_facts(image.prompt).items():
            stated[kind] += 1
            seen[kind] += fact in image.facts
    for kind, own in evaluation["eye"]["kinds"].items():
        assert own["facts"] == stated[kind]
        assert own["eye"] == pytest.approx(seen[kind] / stated[kind])
        assert own["eye"] - own["reader"] == pytest.approx((own["missed"] - own["imagined"]) / stated[kind])
        assert own["agree"] == pytest.approx(1 - (own["missed"] + own["imagined"]) / stated[kind])
        assert own["low"] <= own["agree"] <= own["high"]


def test_the_card_is_written_from_the_numbers_beside_it(folder, evaluation, tmp_path):
    told = write_card(evaluation, load_recipe(folder), tmp_path / "card.md").read_text()
    assert told == (folder / "MODEL_CARD.md").read_text()


def test_the_card_says_so_where_nobody_looked(evaluation, folder, tmp_path):
    text = write_card({**evaluation, "eye": None}, load_recipe(folder), tmp_path / "card.md").read_text()
    assert "No images of these weights have been looked at" in text


def test_the_card_says_so_where_a_correlation_or_its_interval_is_not_known(evaluation, folder, tmp_path):
    unknown = {"clip_rank": {"mean": None, "low": None, "high": None, "n": 3}}
    wide = {"reader_rank": {"mean": 0.4, "low": None, "high": None, "n": 3}}
    text = write_card(
        {**evaluation, "eye": {**evaluation["eye"], **unknown, **wide}}, load_recipe(folder), tmp_path / "card.md"
    ).read_text()
    assert "rank correlation of\nunknown size (the images are all alike) with the tiny CLIP's" in text
    assert "0.40 (no interval: some resamples of the images are all alike)" in text
    assert "nan" not in text


def test_facts_that_a_prompt_does_not_state_are_refused(tmp_path):
    file = tmp_path / LABELS
    file.write_text(json.dumps({"transformer": "x", "seed": 0, "images": [["a red star on grass", ["blue star"]]]}))
    with pytest.raises(
        ValueError, match=r"'blue star' is no fact of 'a red star on grass'; these are: grass, star, red star"
    ):
        read_labels(file)


def test_shapes_without_a_color_are_stated_too():
    assert stated_facts("star sand") == {("sand",): "ground", ("star",): "shape"}


def test_agreement_is_counted_fact_by_fact():
    images = [Seen("a red star on grass", frozenset({("grass",), ("star",)})), Seen("sand", frozenset())] * 3
    read = [frozenset({("grass",), ("star",), ("red", "star")}), frozenset({("sand",)})] * 3
    found = reader_agreement(fact_table(images, read), 6)
    assert found["ground"]["facts"] == 6
    assert (found["ground"]["eye"], found["ground"]["reader"], found["ground"]["agree"]) == (0.5, 1, 0.5)
    assert (found["ground"]["missed"], found["ground"]["imagined"]) == (0, 3)
    assert found["shape"]["agree"] == 1
    assert found["colored shape"]["agree"] == 0
    assert np.isnan(found["shape"]["low"])  # three images have shapes: too few


def test_ranks_agree_fully_with_themselves_and_not_with_a_constant():
    values = np.array([0.1, 0.5, 0.2, 0.9, 0.7, 0.3])
    assert rank_agreement(values, 3 * values).mean == pytest.approx(1)
    assert rank_agreement(values, -values).mean == pytest.approx(-1)
    assert np.isnan(rank_agreement(values, np.ones(6)).mean)


def test_on_scenes_themselves_the_instruments_agree_with_who_sees_all(labels):
    drawn = list(scenes("test", 12))
    seen = tuple(Seen(scene.sentence(), frozenset(stated_facts(scene.sentence()))) for scene in drawn)
    made = measure_instruments(
        type(labels)("", 0, seen), np.stack([scene.image for scene in drawn]), SceneReader.load(), Clip()
    )
    assert made["images"] == 12
    assert all(own["agree"] > 0.95 for own in made["kinds"].values())
    assert made["clip_rank"]["mean"] is None  # the eye sees everything everywhere: there is nothing to rank
