"""All studies in one pass: each number is the one that its own study finds."""

import numpy as np
import pytest

from mmdit_probe import HeadStats, Probe
from mmdit_probe.configs import AnalyzeConfig, BudgetConfig, GenerationConfig, MapsConfig, PCAConfig, ValueNormsConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.figures.heads import heads_figure
from mmdit_probe.pipelines.defaults import ModelDefaults
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.studies.attention_budget import measure_budget
from mmdit_probe.studies.feature_pca import measure_pca
from mmdit_probe.studies.overview import measure_everything, summary, tables, words_of
from mmdit_probe.studies.value_norms import measure_norms
from mmdit_probe.studies.word_maps import measure_maps

GENERATION = GenerationConfig(steps=3, guidance_scale=3.0, max_sequence_length=3)
PROMPT = "a red circle on grass"
CONFIG = AnalyzeConfig(prompt=PROMPT, timesteps=(1, 3), generation=GENERATION)


def test_one_pass_finds_what_each_study_finds(random_pipe):
    record = measure_everything(random_pipe, CONFIG).record
    where = {"timesteps": (1, 3), "generation": GENERATION}
    words = ("red", "circle", "grass")
    alone = {
        "region_mass": measure_budget(random_pipe, PROMPT, BudgetConfig(prompts=(PROMPT,), **where)),
        "value_norm": measure_norms(random_pipe, PROMPT, ValueNormsConfig(prompts=(PROMPT,), **where)),
        "pca": measure_pca(random_pipe, PCAConfig(prompt=PROMPT, **where)).record,
        "word_map": measure_maps(random_pipe, MapsConfig(prompt=PROMPT, words=words, **where)).record,
    }
    assert list(record["word"].values) == list(words)
    for name, study in alone.items():
        np.testing.assert_array_equal(record[name].values, study[name].values)


def test_the_model_runs_once(random_pipe, monkeypatch):
    calls = []
    handle = random_pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    measure_everything(random_pipe, CONFIG)
    handle.remove()
    assert len(calls) == 3


def test_words_are_those_of_the_prompt_or_the_users(random_pipe):
    def words(prompt, chosen=()):
        return list(words_of(random_pipe, AnalyzeConfig(prompt=prompt, words=chosen, generation=GENERATION)))

    assert words("a red circle, on the GRASS and a red square.") == ["red", "circle", "GRASS", "square"]
    assert words("a red circle", ("red circle",)) == ["red circle"]
    assert words("circle " * 30 + "snow") == ["circle"]  # snow was cut off
    assert words("") == []
    with pytest.raises(ValueError, match="'snow' is not among"):
        words("sand", ("snow",))


def test_a_prompt_without_words_has_no_maps(random_pipe):
    record = measure_everything(random_pipe, AnalyzeConfig(prompt="", timesteps=(1,), generation=GENERATION)).record
    assert "word_map" not in record
    found = tables(record)
    assert "maps" not in found
    lines = summary(found, ModelDefaults(1, why="measured by hand"))
    assert lines[0].startswith("The expert layer of this model is 1 (measured by hand): its image tokens give text ")
    own = found["heads"][found["heads"]["layer"] == 1]
    for share in (own["on_text"], own["on_word"], own["on_start"], own["on_end"], own["on_padding"]):
        assert f"{share.mean():.1%}" in lines[0]
    assert "averaged over" in lines[0]
    assert lines[1].count(" by ") >= lines[1].count("layer ") - 1  # every layer with its measure
    assert summary(found, ModelDefaults(None))[0].startswith("No expert layer is known")
    assert summary(found, ModelDefaults(9, why="x"))[0].endswith("was not measured here.")


def test_a_given_image_is_analyzed_too(random_pipe):
    recording = measure_everything(random_pipe, CONFIG, scene("test", 2).image)
    assert recording.record.attrs["source"] == "image"
    assert set(tables(recording.record)) == {
        "attention_budget",
        "value_norms",
        "value_norms_heads",
        "heads",
        "pca",
        "maps",
    }


def test_the_table_of_heads_holds_the_readouts_numbers(random_pipe):
    record = measure_everything(random_pipe, CONFIG).record
    with Probe(random_pipe, [HeadStats()], steps=[2]) as probe:
        random_pipe(PROMPT, output_type="latent", **generation_arguments(random_pipe, GENERATION))
    alone = probe.dataset("conditional").isel(call=0, batch=0)
    heads = tables(record)["heads"]
    assert len(heads) == 2 * 3 * 4
    at = heads.set_index(["timestep", "layer", "head"]).loc[(1, 2, 3)]
    assert at["effective_tokens"] == pytest.approx(float(alone["i2t_effective_tokens"].sel(layer=2).isel(head=3)))
    chosen = alone["i2t_kind_mass"].sel(layer=2, kind="padding").isel(head=3)
    assert at["on_padding"] == pytest.approx(float(chosen))
    kinds = [name for name in heads if name.startswith("on_") and name != "on_text"]
    np.testing.assert_allclose(heads[kinds].sum(axis=1), heads["on_text"], rtol=1e-3)
    sheet = heads_figure(heads).axes[0].images[0].get_array()
    np.testing.assert_allclose(sheet[3, 2], at["effective_tokens"], rtol=1e-6)


def test_unknown_token_kinds_are_said(random_pipe):
    heads = tables(measure_everything(random_pipe, CONFIG).record)["heads"]
    blank = heads.assign(**{name: np.nan for name in heads if name.startswith("on_") and name != "on_text"})
    assert len(heads_figure(blank).axes) == 2 * 1 + 1
    from mmdit_probe.studies.overview import read_heads_aloud

    assert read_heads_aloud(blank)[0].startswith("Which text tokens are words is not known")
    assert "looks at words most" in read_heads_aloud(heads)[0]
