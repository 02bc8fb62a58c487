"""The causal test on a small random pipeline, and its statistics on made-up scores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import GenerationConfig, PerturbConfig
from mmdit_probe.edits import BlurGrid, BlurText, Knockout, Uniform
from mmdit_probe.figures.contact import contact_sheet
from mmdit_probe.figures.drops import drop_figure
from mmdit_probe.probe.probe import Probe
from mmdit_probe.studies import image_grid as images_module
from mmdit_probe.studies.image_grid import generate_batch
from mmdit_probe.studies.paired_metrics import drop_table, measure_images
from mmdit_probe.studies.perturbation import make_edit, most_harmful, run_perturbation

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=0)
CONFIG = PerturbConfig(
    prompts=("sand", "a red circle", "snow"), layers=(0, 2), seeds=(0, 1), batch=2, generation=GENERATION
)


def brightness(images, references, prompts):
    return np.asarray(images, float).mean((1, 2, 3))


def test_plain_and_edited_images_start_from_the_same_noise(random_pipe, tmp_path):
    images = run_perturbation(random_pipe, CONFIG, tmp_path, "random")
    assert list(images.images) == ["plain", "layer00", "layer02"]
    plain = images.images["plain"].astype(int)
    assert plain.shape == (3, 2, 64, 64, 3)
    for name in ("layer00", "layer02"):
        change = np.abs(images.images[name].astype(int) - plain)
        assert 0 < change.mean() < np.abs(plain[:, 0] - plain[:, 1]).mean()


def test_an_interrupted_run_continues_and_ends_the_same(random_pipe, tmp_path, monkeypatch):
    whole = run_perturbation(random_pipe, CONFIG, tmp_path / "a", "random")
    original, made = images_module.generate_batch, []

    def counted(pipe, prompts, seed, generation):
        if len(made) == 5:
            made.append(None)
            raise KeyboardInterrupt
        made.append((prompts, seed))
        return original(pipe, prompts, seed, generation)

    monkeypatch.setattr(images_module, "generate_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        run_perturbation(random_pipe, CONFIG, tmp_path / "b", "random")
    again = run_perturbation(random_pipe, CONFIG, tmp_path / "b", "random")
    assert len(made) == 1 + 2 * 2 * 3  # two seeds, two batches, three variants; the interrupted one twice
    for name, images in whole.images.items():
        np.testing.assert_array_equal(images, again.images[name])


def test_every_image_is_scored(random_pipe, tmp_path):
    images = run_perturbation(random_pipe, CONFIG, tmp_path, "random")
    scored = measure_images(images, {"brightness": brightness})
    assert len(scored) == 3 * 3 * 2
    one = scored[(scored["variant"] == "layer02") & (scored["number"] == 1) & (scored["seed"] == 1)]
    assert one["brightness"].item() == pytest.approx(images.images["layer02"][1, 1].mean())
    assert one["prompt"].item() == "a red circle"


def made_up(drops):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        for seed in range(2):
            plain = rng.uniform(0.4, 0.6)
            rows.append({"variant": "plain", "number": number, "seed": seed, "clip_t": plain, "clip_i": 1.0})
            for layer, drop in enumerate(drops):
                lost = drop + rng.normal(0, 0.01)
                values = {"clip_t": plain - lost, "clip_i": 1 - lost}
                rows.append({"variant": f"layer{layer:02d}", "number": number, "seed": seed, **values})
    return pd.DataFrame(rows)


def test_drops_are_paired_and_their_intervals_hold_the_truth():
    table = drop_table(made_up([0.02, 0.10]), ["clip_t", "clip_i"]).set_index(["variant", "metric"])
    for metric in ("clip_t", "clip_i"):
        assert table.loc[("plain", metric), "drop"] == 0
        row = table.loc[("layer01", metric)]
        assert row["drop"] == pytest.approx(0.10, abs=0.005)
        assert row["low"] < row["drop"] < row["high"]
        assert row["high"] - row["low"] < 0.02  # prompts differ by 0.2; pairing takes that out


def test_a_clear_lead_is_outside_chance_and_a_tie_is_not():
    clear = most_harmful(made_up([0.02, 0.10, 0.03]), "clip_t")
    assert clear[0].startswith("clip_t: editing layer 1 takes most, 0.")
    assert clear[1].endswith("outside chance.")
    assert most_harmful(made_up([0.05, 0.05]), "clip_t")[1].endswith("within chance.")


@pytest.mark.parametrize(
    ("name", "kind"), [("blur-text", BlurText), ("blur-grid", BlurGrid), ("uniform", Uniform), ("knockout", Knockout)]
)
def test_each_edit_has_a_name(name, kind):
    edit = make_edit(PerturbConfig(prompts=("sand",), layers=(1,), edit=name), 1)
    assert isinstance(edit, kind)
    assert edit.layers == {1}


@pytest.mark.parametrize("edit", ["blur-text", "blur-grid", "uniform", "knockout"])
def test_the_negative_prompts_half_is_edited_if_it_is_asked_for(random_pipe, tmp_path, edit):
    """Only with guidance; plain images are the same; a folder belongs to one way."""
    generation = GenerationConfig(steps=2, guidance_scale=7.5, max_sequence_length=0)
    config = PerturbConfig(prompts=("sand",), layers=(1,), edit=edit, seeds=(0,), generation=generation)
    half = run_perturbation(random_pipe, config, tmp_path / "half", "random").images
    both = run_perturbation(random_pipe, replace(config, edit_branch="all"), tmp_path / "both", "random").images
    np.testing.assert_array_equal(half["plain"], both["plain"])
    assert (half["layer01"] != both["layer01"]).any()
    everywhere = make_edit(config, 1)
    everywhere.batch = "all"
    with Probe(random_pipe, [], edits=[everywhere]):
        expected = generate_batch(random_pipe, ["sand"], 0, generation)
    np.testing.assert_array_equal(both["layer01"][:, 0], expected)
    with pytest.raises(ValueError, match=r"other settings \(edit_branch\)"):
        run_perturbation(random_pipe, replace(config, edit_branch="all"), tmp_path / "half", "random")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1,), "edit": "smudge"}, "edit must be one of blur-text"),
        (
            {"layers": (1,), "edit_branch": "some"},
            "edit_branch must be one of conditional, all, got 'some'",
        ),
        ({"layers": (1,), "kernel": None}, "needs a kernel size"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": (9,)}, r"\[9\] do not exist"),
        ({"layers": (1,), "batch": 0}, "batch must be 1 or more"),
    ],
)
def test_bad_settings_are_explained_before_any_work(random_pipe, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run_perturbation(random_pipe, PerturbConfig(prompts=("sand",), **settings), tmp_path, "random")
    assert not list(tmp_path.rglob("*.nc"))


def test_figures_show_every_variant(random_pipe, tmp_path):
    images = run_perturbation(random_pipe, CONFIG, tmp_path, "random")
    titles = {"plain": "plain", "layer00": "layer 0", "layer02": "layer 2"}
    sheet = contact_sheet({name: images[:, 0] for name, images in images.images.items()}, CONFIG.prompts, titles)
    assert len(sheet.axes) == 9
    assert sheet.axes[1].get_title() == "layer 0"
    np.testing.assert_array_equal(sheet.axes[5].images[0].get_array(), images.images["layer02"][1, 0])
    figure = drop_figure(drop_table(made_up([0.02, 0.1]), ["clip_t"]), {"layer00": "0", "layer01": "1"}, "edited layer")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1"]
