"""Word maps against the full softmax; words, names, tables and pages."""

import numpy as np
import pytest
import torch
import xarray as xr
from naive import full_matrix, random_call

from mmdit_probe import I2TMaps, Probe, T2IMaps, TokenLayout, WordMaps
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.configs import GenerationConfig, MapsConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.families import TextPart
from mmdit_probe.figures.maps import heads_page, plot_overlay, word_page
from mmdit_probe.pipelines.prompts import describe, find_words
from mmdit_probe.readouts.base import read
from mmdit_probe.studies.word_maps import (
    file_names,
    head_mean,
    maps_table,
    measure_maps,
    still,
    summary,
    word_positions,
)
from mmdit_probe.utils.text import checked_words

PROMPT = "a red circle on grass and a red square"
GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)


@pytest.mark.parametrize("order", ["image-text", "text-image"])
@pytest.mark.parametrize("direction", ["i2t", "t2i"])
@pytest.mark.parametrize("heads", ["mean", "all"])
def test_a_words_map_is_cut_from_the_full_softmax(order, direction, heads):
    layout = TokenLayout((3, 4), 6, order)
    call = random_call(2, 3, layout.tokens, 8)
    spans = [[1, 4], [5]]
    found = read([WordMaps(spans, direction, heads)], JointAttention(call, layout))["word_map"]
    matrix = full_matrix(call)
    for number, span in enumerate(spans):
        tokens = [layout.text_slice.start + position for position in span]
        image = range(layout.image_slice.start, layout.image_slice.stop)
        for row in range(3):
            for col in range(4):
                query = image[4 * row + col]
                pairs = [(query, t) if direction == "i2t" else (t, query) for t in tokens]
                slow = sum(matrix[:, :, q, k] for q, k in pairs) / len(pairs)
                slow = slow if heads == "all" else slow.mean(1)
                torch.testing.assert_close(found.values[..., number, row, col], slow.float(), rtol=1e-4, atol=1e-7)
    assert found.dims == ("batch", *(["head"] if heads == "all" else []), "word", "row", "col")


@pytest.mark.parametrize(("direction", "whole"), [("i2t", I2TMaps()), ("t2i", T2IMaps())])
def test_the_words_maps_are_the_tokens_maps(random_pipe, direction, whole):
    """All tokens as words: nothing is added or lost."""
    spans = [[token] for token in range(27)]
    with Probe(random_pipe, [whole, WordMaps(spans, direction)]) as probe:
        random_pipe("sand", num_inference_steps=1, guidance_scale=3.0, max_sequence_length=3)
    record = probe.dataset()
    by_token = record[direction].transpose(..., "token", "row", "col")
    np.testing.assert_allclose(record["word_map"].values, by_token.values, rtol=1e-4, atol=1e-7)


def test_words_are_found_with_all_their_occurrences(random_pipe):
    found = word_positions(random_pipe, PROMPT, ["red", "red circle", "grass"], GENERATION)
    assert found == [[2, 8], [2, 3], [5]]


def test_words_are_found_inside_a_template(random_pipe):
    """Shifted by what stands before the prompt; the template's own words do not count."""
    part = TextPart("qwen", random_pipe.tokenizer, 20, template="red grass: {} red")
    [alone] = word_positions(random_pipe, "a red circle", ["red circle"], GENERATION)
    [found] = find_words([part], "a red circle", ["red circle"])
    strings = describe([part], ["a red circle"]).strings[0]
    assert [strings[position] for position in found] == ["red", "circle"]
    assert found[0] > alone[0]
    assert find_words([part], "a red circle", ["red"]) == [found[:1]]
    with pytest.raises(ValueError, match="'grass' is not among the prompt's tokens: a red circle"):
        find_words([part], "a red circle", ["grass"])


def test_an_unknown_word_shows_the_tokens(random_pipe):
    with pytest.raises(ValueError, match=r"'snow' is not among the prompt's tokens: .*circle"):
        word_positions(random_pipe, PROMPT, ["snow"], GENERATION)


def test_a_word_that_was_cut_off_shows_the_tokens(random_pipe):
    with pytest.raises(ValueError, match="'snow' is not among the prompt's tokens"):
        word_positions(random_pipe, "a " * 30 + "snow", ["snow"], GENERATION)


def test_a_generated_and_a_given_image_leave_the_same_kind_of_record(random_pipe):
    config = MapsConfig(
        prompt=PROMPT,
        words=("red circle", "grass"),
        layers=(0, 2),
        timesteps=(1, 2),
        direction="i2t",
        heads="all",
        generation=GENERATION,
    )
    made, given = measure_maps(random_pipe, config), measure_maps(random_pipe, config, scene("test", 0).image)
    for recording in (made, given):
        maps = recording.record["word_map"]
        assert maps.dims == ("timestep", "layer", "head", "word", "row", "col")
        assert maps.shape == (2, 2, 4, 2, 8, 8)
        assert list(maps["layer"]) == [0, 2]
        assert list(maps["word"].values) == ["red circle", "grass"]
        assert recording.image.shape == (64, 64, 3)
    np.testing.assert_allclose(made.record["sigma"], given.record["sigma"], rtol=1e-5)


def test_the_table_finds_the_peak():
    values = np.full((1, 2, 1, 3, 4), 0.1)
    values[0, 1, 0, 2, 1] = 0.9
    dims = ("timestep", "layer", "word", "row", "col")
    coords = {"timestep": [8], "layer": [3, 7], "word": ["sand"], "sigma": ("timestep", [0.5])}
    table = maps_table(xr.Dataset({"word_map": (dims, values)}, coords))
    flat, peaked = table.iloc[0], table.iloc[1]
    assert flat["contrast"] == pytest.approx(1)
    assert (peaked["layer"], peaked["peak_row"], peaked["peak_col"], peaked["peak"]) == (7, 2, 1, 0.9)
    assert peaked["mean"] == pytest.approx((11 * 0.1 + 0.9) / 12)
    assert summary(table)[0].startswith("'sand' peaks in layer 7 at t = 8 (sigma 0.500): 90.00% in row 2, column 1")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["red circle", "grass"], ["red-circle", "grass"]),
        (["../../etc/passwd"], ["etc-passwd"]),
        (["..", "/", "\x00"], ["word", "word-2", "word-3"]),
        (["Cat", "cat", "cat!"], ["cat", "cat-2", "cat-3"]),
        (["Straße", "猫"], ["straße", "猫"]),
        (["x" * 300], ["x" * 60]),
    ],
)
def test_files_are_named_after_words_and_stay_in_the_folder(words, names):
    assert file_names(words) == names


def test_words_are_taken_once():
    assert checked_words((" red circle", " grass", "", "grass ")) == ("red circle", "grass")
    with pytest.raises(ValueError, match="expected words of the prompt"):
        checked_words((" ", ""))


def test_pages_are_the_right_way_up_and_share_one_scale(random_pipe):
    config = MapsConfig(
        prompt=PROMPT,
        words=("grass",),
        layers=None,
        timesteps=(1, 2),
        direction="i2t",
        heads="all",
        generation=GENERATION,
    )
    recording = measure_maps(random_pipe, config)
    maps = still(head_mean(recording.record)).sel(word="grass")
    page = word_page(maps, recording.image, "grass", "i2t")
    overlays = [ax for ax in page.axes if ax.get_title().startswith("layer")]
    assert len(overlays) == 6
    assert [ax.get_title() for ax in overlays] == 2 * ["layer 0", "layer 1", "layer 2"]
    heat = overlays[4].images[-1]
    np.testing.assert_array_equal(heat.get_array(), maps.isel(timestep=1, layer=1))
    assert {ax.images[-1].get_clim() for ax in overlays} == {(0, float(maps.max()))}
    assert "probability" in page.axes[-1].get_ylabel()
    sheet = heads_page(still(recording.record["word_map"]).sel(word="grass", timestep=2), "grass", "i2t")
    drawn = [ax for ax in sheet.axes if ax.images]
    assert len(drawn) == 3 * 4


def test_row_0_is_drawn_at_the_top():
    """The law for orientation: a map that is lit in row 0, column 0 lights the top left of the image."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(2, 1), dpi=100)
    ax.set_position([0, 0, 1, 1])
    grid = np.zeros((2, 4))
    grid[0, 0] = 1
    plot_overlay(ax, grid, np.full((20, 40, 3), 255, np.uint8), 1.0)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba()).astype(int)
    lit = (pixels[..., 0] - pixels[..., 2]) > 100  # yellow
    plt.close(figure)
    assert lit[:50, :50].mean() > 0.9
    assert lit[50:].sum() == lit[:, 52:].sum() == 0


def test_a_given_image_is_drawn_at_its_own_proportions():
    """The model's copy of 90 x 50 px has 8 x 4 tokens, which are 2 to 1."""
    import matplotlib.pyplot as plt

    maps = xr.DataArray(
        np.random.default_rng(0).random((1, 2, 4, 8)),
        dims=("timestep", "layer", "row", "col"),
        coords={"timestep": [8], "layer": [0, 1], "sigma": ("timestep", [0.5])},
    )
    page = word_page(maps, np.zeros((50, 90, 3), np.uint8), "circle", "i2t")
    page.draw_without_rendering()
    panels = [ax for ax in page.axes if ax.images and len(ax.images) < 3 and ax.get_title()]
    assert len(panels) == 3
    for ax in panels:
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(50 / 90, rel=0.02)
    plt.close(page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], "t2t"), "direction must be"),
        (([[1]], "i2t", "some"), "heads must be"),
        (([[]],), "at least one text position"),
        (([],), "at least one text position"),
    ],
)
def test_bad_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordMaps(*arguments)


def test_a_position_beyond_the_text_is_refused(sd3, inputs):
    with pytest.raises(ValueError, match="position 7 does not exist; there are 7"), Probe(sd3, [WordMaps([[7]])]):
        sd3(**inputs)


def test_text_that_does_not_attend_has_no_t2i_map():
    layout = TokenLayout((2, 3), 4, scope="cross")
    query, text = random_call(1, 2, 6, 8), random_call(1, 2, 4, 8)
    attention = JointAttention(type(query)(query.query, text.key, text.value, query.arguments), layout)
    with pytest.raises(ValueError, match="text does not attend to the image in this model; use the direction i2t"):
        read([WordMaps([[1]], "t2i")], attention)
    found = read([WordMaps([[0], [1], [2], [3]])], attention)["word_map"]
    torch.testing.assert_close(found.values.sum(1), torch.ones(1, 2, 3))  # the text is all there is to attend to


def test_words_that_stand_in_a_prompt_twice(tiny):
    from mmdit_probe.families import text_parts_of
    from mmdit_probe.pipelines.prompts import find_words, repeated_words

    parts, prompt = text_parts_of(tiny), "a red circle and a blue circle on sand"
    both, first, second = find_words(parts, prompt, ["circle", "circle#1", "Circle # 2"])
    assert both == first + second
    assert len(first) == len(second) == 1
    (blue,) = find_words(parts, prompt, ["blue circle"])
    assert second[0] in blue
    assert repeated_words(parts, prompt, ["circle", "red", "a", "circle#2"]) == {"circle": 2, "a": 2}
    with pytest.raises(ValueError, match="'circle#3': the prompt has 'circle' 2 times; occurrences are counted from 1"):
        find_words(parts, prompt, ["circle#3"])
    with pytest.raises(ValueError, match="'red#0': the prompt has 'red' once"):
        find_words(parts, prompt, ["red#0"])


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [("gras", "grass"), ("circel", "circle"), ("red cirle", "red circle"), ("Graß", "grass"), ("circel#2", "circle")],
)
def test_a_word_that_is_not_there_brings_the_one_like_it(tiny, word, suggestion):
    from mmdit_probe.families import text_parts_of
    from mmdit_probe.pipelines.prompts import find_words

    with pytest.raises(ValueError, match=rf"'{word}' is not among .* did you mean '{suggestion}'\?"):
        find_words(text_parts_of(tiny), "a red circle on grass", [word])


def test_nothing_is_suggested_for_a_word_like_none(tiny):
    from mmdit_probe.families import text_parts_of
    from mmdit_probe.pipelines.prompts import find_words

    with pytest.raises(ValueError, match=r"tokens: a red circle on grass$"):
        find_words(text_parts_of(tiny), "a red circle on grass", ["xylophone"])


def test_the_second_of_two_circles_has_a_map_of_its_own(tiny):
    """The mean over both is the mean of the two; an edit takes one of them alone."""
    from mmdit_probe import Knockout, Probe, RegionMass
    from mmdit_probe.configs import GenerationConfig, MapsConfig
    from mmdit_probe.studies.word_maps import measure_maps, occurrence_lines

    prompt, generation = "a red circle and a blue circle", GenerationConfig(steps=1)
    config = MapsConfig(prompt=prompt, words=("circle", "circle#1", "circle#2"), layers=(7,), generation=generation)
    maps = measure_maps(tiny, config).record["word_map"].isel(timestep=0, layer=0)
    both, first, second = maps.transpose("word", ...).values
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
    assert np.abs(first - second).max() > 1e-4
    (line,) = occurrence_lines(tiny, prompt, config.words, generation)
    assert line == (
        "'circle' stands in the prompt 2 times: its map is the mean over all of them; "
        "circle#1 and circle#2 read one each."
    )
    masses = []
    for word in ("circle", "circle#1", "circle#2"):
        with Probe(tiny, [RegionMass()], edits=[Knockout(7, words=[word])], layers=[8]) as probe:
            tiny(prompt, num_inference_steps=1, output_type="latent", max_sequence_length=0)
        masses.append(probe.dataset("conditional")["region_mass"].values)
    assert not np.allclose(masses[0], masses[1])
    assert not np.allclose(masses[1], masses[2])
