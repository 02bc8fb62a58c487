"""Neglected words: measures by hand, the area under the curve, tables, figure and command."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe import Contributions, I2TMaps
from mmdit_probe.configs import GenerationConfig, NeglectConfig
from mmdit_probe.figures.neglect import neglect_figure
from mmdit_probe.metrics.detection import area_under_curve
from mmdit_probe.metrics.scene_reader import SceneReader
from mmdit_probe.studies.neglect import is_missing, layers_table, measure_neglect, run_neglect, summary, words_table
from mmdit_probe.studies.recording import record_generated

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
PROMPTS = ("a red circle on grass", "a blue star on snow")
CONFIG = NeglectConfig(prompts=PROMPTS, timesteps=(1, 2), generation=GENERATION)


@pytest.fixture(scope="module")
def records(random_folder, tmp_path_factory):
    from mmdit_probe import load_pipeline

    pipe, out = load_pipeline(str(random_folder)), tmp_path_factory.mktemp("neglect")
    return run_neglect(pipe, CONFIG, out, "random", SceneReader.load())


def test_the_measures_are_means_over_the_image(random_pipe):
    """The slow twin: contributions and the maps of all tokens, averaged by hand."""
    found = measure_neglect(random_pipe, PROMPTS[0], CONFIG)
    whole = record_generated(random_pipe, PROMPTS[0], [Contributions(["red", "grass"]), I2TMaps()], (1, 2), GENERATION)
    assert found["word"].values.tolist() == ["red", "circle", "grass"]
    assert found["missing"].isnull().all()
    for word, token in (("red", 2), ("grass", 5)):
        own = found.sel(word=word)
        by_hand = whole.record["contribution"].sel(word=word).mean(("row", "col"))
        np.testing.assert_allclose(own["contribution"], by_hand, rtol=1e-4)
        maps = whole.record["i2t"].isel(token=token).mean(("row", "col"))
        np.testing.assert_allclose(own["i2t"], maps, rtol=1e-4)


def test_words_are_measured_against_the_others(records):
    table = layers_table(records)
    assert len(table) == 2 * 3 * 2 * 3
    at = table[(table["prompt"] == PROMPTS[0]) & (table["layer"] == 1) & (table["timestep"] == 2)].set_index("word")
    others = at.loc[["red", "grass"], "contribution"].mean()
    assert at.loc["circle", "contribution_against"] == pytest.approx(
        at.loc["circle", "contribution"] / others, rel=1e-5
    )
    words = words_table(records, table, 0.9)
    own = words.set_index(["prompt", "word"]).loc[(PROMPTS[1], "star")]
    mine = table[(table["prompt"] == PROMPTS[1]) & (table["word"] == "star")]
    assert own["contribution_against"] == pytest.approx(np.prod(mine["contribution_against"]) ** (1 / len(mine)))
    assert own["neglected"] == (own["contribution_against"] < 0.9)
    assert words["missing"].notna().sum() == 4  # grounds and shapes; not colors


def test_the_scene_reader_says_what_is_missing():
    from mmdit_probe.datasets.scenes import scene

    drawn, reader = scene("test", 0), SceneReader.load()  # a blue square on lava under sand
    assert [is_missing(word, drawn.image, reader) for word in ("square", "Lava", "star")] == [0.0, 0.0, 1.0]
    assert np.isnan(is_missing("blue", drawn.image, reader))
    assert np.isnan(is_missing("square", drawn.image[:32], reader))
    assert np.isnan(is_missing("square", drawn.image, None))


def test_the_area_counts_pairs():
    """The slow twin: every pair of a positive and a negative item."""
    rng = np.random.default_rng(0)
    scores, positive, units = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4, np.arange(40) // 4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    area = area_under_curve(scores, positive, units)
    assert area.mean == pytest.approx(np.mean(pairs))
    assert area.low < area.mean < area.high
    assert area.n == 10
    assert area_under_curve(-scores, positive, units).mean == pytest.approx(1 - area.mean)
    assert np.isnan(area_under_curve(scores, np.ones(40, bool), units).mean)
    assert np.isnan(area_under_curve(scores, positive, np.arange(40) // 20).low)


def test_the_area_of_noise_holds_chance():
    """In 60 runs without an effect the 95% interval leaves out 0.5 seldom."""
    rng, outside = np.random.default_rng(1), 0
    for _ in range(60):
        area = area_under_curve(rng.normal(size=120), rng.random(120) < 0.3, np.arange(120) // 3)
        outside += not area.low <= 0.5 <= area.high
    assert outside <= 9


def test_the_summary_says_what_is_known(records):
    table = layers_table(records)
    words = words_table(records, table, 100.0)
    assert summary(words, 100.0)[0].startswith("6 of 6 words add less than 100 times what the prompt's other words add")
    unknown = words.assign(missing=np.nan)
    assert "is not known" in summary(unknown, 0.5)[-1]
    told = words[words["missing"].notna()].assign(missing=[1.0, 0.0, 0.0, 1.0])
    assert "area under the curve of" in summary(told, 0.5)[-1]
    assert "too few prompts for an interval" in summary(told, 0.5)[-1]
    same = summary(told.assign(missing=0.0), 0.5)
    assert "can't be said" in same[-1]


def test_the_figure_has_a_line_for_each_word_or_kind(records):
    table = layers_table(records)
    words = words_table(records, table, 0.5)
    figure = neglect_figure(table, words, 0.5)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["red (1)", "circle (1)"]
    many = pd.concat([table.assign(prompt=table["prompt"] + str(n)) for n in range(3)])
    more = pd.concat([words.assign(prompt=words["prompt"] + str(n)) for n in range(3)])
    labels = [text.get_text() for text in neglect_figure(many, more, 0.5).legends[0].get_texts()]
    assert labels[-1] == "not known: median of 6 words"


def test_a_prompt_of_one_word_is_refused(random_pipe):
    with pytest.raises(ValueError, match="'sand' has 1 content word; words are compared"):
        measure_neglect(random_pipe, "sand", CONFIG)


def test_the_command_leaves_figure_and_tables(run, tmp_path):
    arguments = ["--prompt", "a red circle on grass", "--steps", "2", "--timesteps", "1", "--max-sequence-length", "0"]
    code, out, err = run("neglect", *arguments, "--words", "red circle,grass", "--neglected-below", "0.9")
    assert code == 0, err
    folder = tmp_path / "results" / "neglect"
    assert {path.name for path in folder.glob("neglect*")} == {
        *("neglect.pdf", "neglect.png", "neglect.csv", "neglect_words.csv")
    }
    assert "of 2 words add less than 0.9 times" in out
    assert pd.read_csv(folder / "neglect_words.csv")["word"].tolist() == ["red circle", "grass"]
