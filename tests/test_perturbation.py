"""The causal test on a small random pipeline, and its statistics on made-up scores."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmdit_probe.attention.layout import Region
from mmdit_probe.configs import GenerationConfig, PerturbConfig, SamplingConfig
from mmdit_probe.configs.edits import EdgeName
from mmdit_probe.edits import Bias, BlurGrid, BlurText, Knockout, Patch, Regions, Uniform
from mmdit_probe.families import heads_of
from mmdit_probe.figures.contact import contact_sheet
from mmdit_probe.figures.drops import drop_figure
from mmdit_probe.probe.probe import Probe
from mmdit_probe.probe.states import record_states
from mmdit_probe.studies import image_grid as images_module
from mmdit_probe.studies.chosen_edit import edited_part, make_edit
from mmdit_probe.studies.image_grid import generate_batch
from mmdit_probe.studies.paired_metrics import drop_table, measure_images
from mmdit_probe.studies.perturbation import most_harmful, run_perturbation

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
    assert scored.columns[0] == "layer"
    assert scored["layer"].isna().sum() == 3 * 2  # plain images
    one = scored[(scored["layer"] == 2) & (scored["number"] == 1) & (scored["seed"] == 1)]
    assert one["brightness"].item() == pytest.approx(images.images["layer02"][1, 1].mean())
    assert one["prompt"].item() == "a red circle"


def made_up(drops, prompts=20):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(prompts):
        for seed in range(2):
            plain = rng.uniform(0.4, 0.6)
            rows.append({"layer": None, "number": number, "seed": seed, "clip_t": plain, "clip_i": 1.0})
            for layer, drop in enumerate(drops):
                lost = drop + rng.normal(0, 0.01)
                values = {"clip_t": plain - lost, "clip_i": 1 - lost}
                rows.append({"layer": layer, "number": number, "seed": seed, **values})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def test_drops_are_paired_and_their_intervals_hold_the_truth():
    table = drop_table(made_up([0.02, 0.10]), ["clip_t", "clip_i"])
    assert (table["n"] == 20).all()
    for metric in ("clip_t", "clip_i"):
        own = table[table["metric"] == metric]
        assert own[own["layer"].isna()]["drop"].item() == 0
        row = own[own["layer"] == 1].iloc[0]
        assert row["drop"] == pytest.approx(0.10, abs=0.005)
        assert row["low"] < row["drop"] < row["high"]
        assert row["high"] - row["low"] < 0.02  # prompts differ by 0.2; pairing takes that out


def test_a_clear_lead_is_outside_chance_and_a_tie_is_not():
    clear = most_harmful(made_up([0.02, 0.10, 0.03]), "clip_t")
    assert clear[0].startswith("clip_t: editing layer 1 takes most, 0.")
    assert "n = 20 prompts" in clear[0]
    assert clear[1].endswith("as the largest of 3, outside chance.")
    assert clear[2].startswith("clip_t: its lead over layer 2, the next, is 0.0")
    assert clear[2].endswith("outside chance.")
    assert most_harmful(made_up([0.05, 0.05]), "clip_t")[1].endswith("within chance.")


def test_two_layers_that_share_the_lead_are_not_told_apart():
    lines = most_harmful(made_up([0.0, 0.10, 0.0, 0.10]), "clip_t")
    assert lines[1].endswith("outside chance.")
    assert lines[2].endswith("the two are not told apart.")


def test_equal_drops_are_a_tie():
    rows = made_up([0.0, 0.0, 0.0])
    rows["clip_t"] = 0.5 - 0.1 * rows["layer"].isin([0, 2])
    assert most_harmful(rows, "clip_t") == [
        "clip_t: editing any of layers 0 and 2 takes the same, 0.100 on average (95% interval 0.100 to 0.100; n = 20 "
        "prompts): a tie."
    ]


@pytest.mark.parametrize("prompts", [1, 4])
def test_few_prompts_give_no_interval_and_no_verdict(prompts):
    lines = most_harmful(made_up([0.02, 0.10, 0.03], prompts), "clip_t")
    assert f"too few prompts for an interval ({prompts}; 5 needed)" in lines[0]
    assert lines[1] == "clip_t: no verdict on its lead."
    assert not any("chance" in line or "95%" in line for line in lines)
    table = drop_table(made_up([0.02, 0.10], prompts), ["clip_t"])
    assert table.loc[table["layer"].notna(), ["low", "high", "p"]].isna().all(axis=None)
    assert (table["n"] == prompts).all()
    alone = most_harmful(made_up([0.1], prompts), "clip_t")
    assert len(alone) == 1
    assert alone[0].endswith("no verdict.")


@pytest.mark.parametrize("drops", [[0.0, 0.0], [-0.05, -0.02, -0.03], [-0.05]])
def test_where_nothing_falls_no_layer_wins(drops):
    rows = made_up(drops)
    if drops == [0.0, 0.0]:
        rows["clip_t"] = 0.5
    (line,) = most_harmful(rows, "clip_t")
    assert "no layer lowers it" in line or "does not lower it" in line
    assert "takes most" not in line


def test_one_layer_is_compared_with_nothing_changed():
    assert most_harmful(made_up([0.1]), "clip_t")[0].endswith("outside chance.")
    assert "chance" not in most_harmful(made_up([0.1]), "clip_i")[0]  # likeness to the plain image falls by any change


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
    figure = drop_figure(drop_table(made_up([0.02, 0.1]), ["clip_t"]), "edited layer")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0", "1"]


EDITS = ["scale", "self-attend", "remove-sinks", "remove-random", "head-scale", "group-keys", "bypass", "scale-text"]


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_changes_the_image(random_pipe, tmp_path, name):
    config = PerturbConfig(prompts=("a red circle",), layers=(1,), edit=name, seeds=(0,), generation=GENERATION)
    grid = run_perturbation(random_pipe, config, tmp_path, "m")
    assert (grid.images["plain"] != grid.images["layer01"]).any()
    if name not in ("remove-sinks", "remove-random", "bypass"):
        same = replace(config, amount=0.0 if name == "self-attend" else 1.0)
        untouched = run_perturbation(random_pipe, same, tmp_path / "same", "m")
        assert (untouched.images["plain"] == untouched.images["layer01"]).all()


def test_heads_and_quarters_of_the_steps_are_swept_one_by_one(random_pipe, tmp_path):
    config = PerturbConfig(
        prompts=("sand",), layers=(1,), edit="head-scale", by="head", seeds=(0,), generation=GENERATION
    )
    heads = run_perturbation(random_pipe, config, tmp_path / "heads", "m")
    assert list(heads.images) == ["plain", *(f"layer01head{head:02d}" for head in range(heads_of(random_pipe, 1)))]
    assert heads.values["layer01head02"] == "1.2"
    by_step = replace(config, by="step")
    steps = run_perturbation(random_pipe, by_step, tmp_path / "steps", "m")
    assert steps.values == {"layer01step00": "1: 0-0", "layer01step01": "1: 1-1"}
    assert (steps.images["layer01step00"] != steps.images["layer01step01"]).any()
    measured = measure_images(heads, {"scene": brightness})
    assert measured.columns[0] == "head"
    table = drop_table(measured, ["scene"])
    assert table["head"].tolist() == ["plain", "1.0", "1.1", "1.2", "1.3"]
    assert [label.get_text() for label in drop_figure(table, "head").axes[0].get_xticklabels()] == [
        "1.0",
        "1.1",
        "1.2",
        "1.3",
    ]
    assert "layer 1" not in most_harmful(measured, "scene")[0]


def test_blocks_have_no_heads_to_sweep(random_pipe, tmp_path):
    config = PerturbConfig(prompts=("sand",), layers=(1,), edit="bypass", by="head", generation=GENERATION)
    with pytest.raises(ValueError, match="bypass changes a whole block, which has no heads"):
        run_perturbation(random_pipe, config, tmp_path, "m")


def test_settings_name_every_edge():
    assert get_args(EdgeName) == tuple(Region)


@pytest.mark.parametrize("name", ["uniform", "knockout", "scale", "blur-text", "blur-grid"])
def test_edges_are_edited_that_the_edit_takes(random_pipe, tmp_path, name):
    edge = {"blur-text": "T2T", "blur-grid": "I2I"}.get(name, "T2I")
    config = PerturbConfig(prompts=("a red circle",), layers=(1,), edit=name, seeds=(0,), generation=GENERATION)
    assert make_edit(replace(config, edge=edge), 1).edge == edge
    usual = run_perturbation(random_pipe, config, tmp_path / "usual", "m").images
    other = run_perturbation(random_pipe, replace(config, edge=edge), tmp_path / "other", "m").images
    assert (other["layer01"] != usual["layer01"]).any()
    assert (other["layer01"] != other["plain"]).any()
    assert edited_part(replace(config, edge=edge)) == f"{name}, {edge}"
    assert edited_part(config) == name


@pytest.mark.parametrize("name", [*EDITS[1:], "knockout"])
def test_edges_are_refused_where_an_edit_or_the_model_has_none(random_pipe, tmp_path, name):
    config = PerturbConfig(prompts=("sand",), layers=(1,), edit=name, edge="I2R", generation=GENERATION)
    with pytest.raises(ValueError, match=r"does not change one edge alone|which Stable Diffusion 3.* does not take"):
        run_perturbation(random_pipe, config, tmp_path, "m")
    assert not list(tmp_path.iterdir())


def test_references_are_those_of_an_edge_with_references():
    config = PerturbConfig(layers=(1,), edit="knockout", edge="I2R", references=(2,))
    edit = make_edit(config, 1)
    assert (edit.edge, edit.references) == ("I2R", {2})
    assert edited_part(config) == "knockout, I2R of reference 2"
    with pytest.raises(ValueError, match="references choose reference images; edge T2I has none"):
        make_edit(replace(config, edge="T2I"), 1)
    with pytest.raises(ValueError, match="references must be 1 or more"):
        replace(config, references=(0,))


RED = PerturbConfig(
    prompts=("a red circle", "red snow"),
    layers=(1,),
    seeds=(0, 1),
    batch=2,
    generation=SamplingConfig(steps=2, guidance_scale=3.0, max_sequence_length=0),
)


def drawn_with(pipe, edit, prompts, seed):
    with Probe(pipe, [], edits=[edit]):
        return generate_batch(pipe, prompts, seed, GENERATION)


def by_name(config, edit, **settings):
    return replace(config, edit=edit, **settings)


def test_bias_adds_to_the_words_in_the_place(random_pipe, tmp_path):
    config = by_name(RED, "bias", words=("red",), place="0,0,0.5,1", amount=6.0)
    grid = run_perturbation(random_pipe, config, tmp_path, "m").images
    for number, seed in enumerate(RED.seeds):
        own = drawn_with(random_pipe, Bias(1, "red", 6.0, (0, 0, 0.5, 1)), RED.prompts, seed)
        np.testing.assert_array_equal(grid["layer01"][:, number], own)
    assert (grid["layer01"] != grid["plain"]).any()
    assert edited_part(config) == "bias, 'red', in 0,0,0.5,1"


@pytest.mark.parametrize("binding", ["soft", "hard"])
def test_regions_bind_words_in_one_layer(random_pipe, tmp_path, binding):
    config = by_name(RED, "regions", region=("red=0,0,0.5,1",), binding=binding)
    grid = run_perturbation(random_pipe, config, tmp_path, "m").images
    edit = Regions({"red": (0, 0, 0.5, 1)}, binding == "hard", layer=1, strength=4.0)
    np.testing.assert_array_equal(grid["layer01"][:, 0], drawn_with(random_pipe, edit, RED.prompts, 0))
    assert (grid["layer01"] != grid["plain"]).any()


@pytest.mark.parametrize(("what", "tokens"), [("output", "all"), ("value", "snow"), ("block", "text")])
def test_patch_writes_the_source_of_the_same_seed(random_pipe, tmp_path, what, tokens):
    config = by_name(RED, "patch", source="a snow circle", what=what, tokens=tokens)
    grid = run_perturbation(random_pipe, config, tmp_path, "m").images
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "max_sequence_length": 0}
    for number, seed in enumerate(RED.seeds):
        states = record_states(random_pipe, "a snow circle", what=what, layers=[1], tokens=tokens, seed=seed, **call)
        own = drawn_with(random_pipe, Patch(states, 1), RED.prompts, seed)
        np.testing.assert_array_equal(grid["layer01"][:, number], own)
    assert (grid["layer01"] != grid["plain"]).any()


def test_a_run_that_is_patched_with_its_own_states_stays(random_pipe, tmp_path):
    config = by_name(RED, "patch", prompts=("red snow",), source="red snow", seeds=(1,), layers=(0, 2), batch=1)
    grid = run_perturbation(random_pipe, config, tmp_path, "m").images
    for name in ("layer00", "layer02"):
        np.testing.assert_array_equal(grid[name], grid["plain"])


def test_patched_heads_and_steps_are_swept_one_by_one(random_pipe, tmp_path):
    config = by_name(RED, "patch", prompts=("red snow",), source="a circle", seeds=(0,), batch=1)
    heads = run_perturbation(random_pipe, replace(config, by="head"), tmp_path / "heads", "m").images
    steps = run_perturbation(random_pipe, replace(config, by="step"), tmp_path / "steps", "m").images
    assert len(heads) == 1 + heads_of(random_pipe, 1)
    for images in (heads, steps):
        made = list(images.values())
        assert all((one != other).any() for number, one in enumerate(made) for other in made[:number])


@pytest.mark.parametrize("name", ["knockout", "scale", "blur-grid", "scale-text", "remove-random"])
def test_words_are_edited_alone_where_an_edit_chooses_tokens(random_pipe, tmp_path, name):
    all_of_it = run_perturbation(random_pipe, by_name(RED, name), tmp_path / "all", "m").images
    red = run_perturbation(random_pipe, by_name(RED, name, words=("red",)), tmp_path / "red", "m").images
    assert (red["layer01"] != red["plain"]).any()
    assert (red["layer01"] != all_of_it["layer01"]).any()


def test_another_mask_in_the_same_file_is_another_run(random_pipe, tmp_path):
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    config = by_name(RED, "bias", words=("red",), place=str(tmp_path / "mask.png"))
    run_perturbation(random_pipe, config, tmp_path / "run", "m")
    Image.fromarray(255 - mask).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"other settings \(mask_content\)"):
        run_perturbation(random_pipe, config, tmp_path / "run", "m")


@pytest.mark.parametrize(
    ("edit", "settings", "message"),
    [
        ("bias", {}, "words: bias needs at least one word"),
        ("bias", {"words": ("blue",)}, "words: 'blue' is not"),
        ("bias", {"words": ("circle",)}, "words: 'circle' is not"),  # not in the second prompt
        ("bias", {"words": ("red",), "place": "0,0,2,1"}, "where: a box must be left"),
        ("bias", {"words": ("red",), "place": "mask.png"}, "no file mask.png"),
        ("bias", {"words": ("red",), "amount": 60.0}, "strength is added to scores"),
        ("regions", {}, "region: regions needs a word and its place"),
        ("regions", {"region": ("red",)}, "region: give a word and its place"),
        ("regions", {"region": ("blue=0,0,1,1",)}, "words: 'blue' is not"),
        ("patch", {}, "patch needs the prompt whose states are written"),
        ("patch", {"source": "sand", "words": ("red",)}, "patch writes whole tokens"),
        ("patch", {"source": "sand", "tokens": "red"}, "words: 'red' is not"),
        ("patch", {"source": "sand", "what": "block", "by": "head"}, "residual streams have no heads"),
        ("patch", {"source": "sand", "layers": (9,)}, r"\[9\] do not exist"),
        ("self-attend", {"words": ("red",)}, "words and kinds do not choose"),
        ("knockout", {"amount": 2.0}, "amount is read by scale and bias"),
        ("knockout", {"place": "0,0,1,1"}, "place is read by bias alone, not by knockout"),
        ("bias", {"source": "sand"}, "source is read by patch alone"),
        ("patch", {"source": "sand", "binding": "hard"}, "binding is read by regions alone"),
    ],
)
def test_what_an_edit_lacks_or_does_not_read_is_refused_before_any_work(random_pipe, tmp_path, edit, settings, message):
    with pytest.raises(ValueError, match=message):
        run_perturbation(random_pipe, by_name(RED, edit, **settings), tmp_path, "m")
    assert not list(tmp_path.iterdir())
