"""trace and read_image: words, overlays and pages of ordinary pipeline calls, against probes opened by hand."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import small_pipeline

from mmdit_probe import I2TMaps, Probe, RegionMass, WordMaps, read_image, trace
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.figures.overlay import heat, overlay
from mmdit_probe.pipelines.image_size import native_size, token_pixels
from mmdit_probe.storage.images import fitted
from mmdit_probe.studies.recording import record_image
from mmdit_probe.tracing.plan import plan_of
from mmdit_probe.tracing.trace import images_of, steps_of
from mmdit_probe.tracing.word import pixels_of

PROMPT = "a red circle on a blue circle"


def call(pipe, prompt=PROMPT, **given):
    arguments = {"num_inference_steps": 3, "max_sequence_length": 0, "generator": torch.Generator().manual_seed(0)}
    return pipe(prompt, **{**arguments, **given})


@pytest.fixture(scope="module")
def traced(tiny):
    """An image, and what was seen of it."""
    with trace(tiny) as seen:
        image = call(tiny).images[0]
    return image, seen


def test_the_image_is_the_one_made_without(tiny, traced):
    image, seen = traced
    assert np.array_equal(np.asarray(image), np.asarray(call(tiny).images[0]))
    assert np.array_equal(seen.image, np.asarray(image))


def test_maps_are_those_of_a_probe_opened_by_hand(tiny, traced):
    _, seen = traced
    with Probe(tiny, [I2TMaps("all"), RegionMass()]) as probe:
        call(tiny, output_type="latent")
    record = probe.dataset("conditional").isel(batch=-1)
    places = np.flatnonzero(record["token_text"].values == "circle")
    own = record["i2t"].isel(token=places).mean("token")  # call, layer, head, row, col
    word, call_of = seen.word("circle"), 3 - seen[0].plan.timestep
    assert (word.layer, word.timestep) == (7, 1)
    np.testing.assert_allclose(word.map, own.sel(layer=7).isel(call=call_of).mean("head"), rtol=1e-5)
    np.testing.assert_allclose(word.by_head, own.sel(layer=7).isel(call=call_of), rtol=1e-5)
    np.testing.assert_allclose(word.by_layer, own.isel(call=call_of).mean("head"), rtol=1e-5)
    np.testing.assert_allclose(word.by_step, own.sel(layer=7).mean("head"), rtol=1e-5)
    assert word.by_step["timestep"].values.tolist() == [3, 2, 1]
    np.testing.assert_allclose(seen.word("circle", layer=4, timestep=3).map, own.sel(layer=4).isel(call=0).mean("head"))


def test_shares_of_all_tokens_are_the_attention_to_text(traced):
    """The law: what every text token gets sums to I2T."""
    _, seen = traced
    maps = seen[0].record["i2t_group"].sel(map_layer=7).isel(timestep=-1).mean("head_group")
    mass = seen.record["region_mass"].sel(region="I2T", layer=7).isel(timestep=-1).mean("head")
    assert float(maps.sum("token").mean()) == pytest.approx(float(mass), rel=1e-5)
    word = seen.word("circle")
    places = list(word.places)
    assert word.share == pytest.approx(float(maps.isel(token=places).sum("token").mean()), rel=1e-5)


def test_every_occurrence_has_a_row_and_a_map(traced):
    _, seen = traced
    table = seen.words.set_index("word")
    assert table["occurrence"].to_dict() == {
        "red": "1 of 1", "circle#1": "1 of 2", "circle#2": "2 of 2", "blue": "1 of 1"
    }  # fmt: skip
    both = [seen.word(f"circle#{number}").map.values for number in (1, 2)]
    np.testing.assert_allclose(seen.word("circle").map, np.mean(both, 0), rtol=1e-5)
    grid = both[1]
    row = table.loc["circle#2"]
    assert grid[row["row"], row["col"]] == row["peak"] == grid.max()
    assert row["contrast"] == pytest.approx(grid.max() / grid.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cirle", "'cirle' is not among the prompt's tokens: a red circle on a blue circle; did you mean 'circle'?"),
        ("circle#3", "'circle#3': the prompt has 'circle' 2 times; occurrences are counted from 1"),
    ],
)
def test_a_word_that_is_not_there_is_refused_with_what_is(traced, word, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        traced[1].word(word)


def test_what_was_not_kept_is_refused(tiny):
    with trace(tiny, layers=(4, 7), timesteps=(2,)) as seen:
        call(tiny)
    assert seen.word("red").by_layer["layer"].values.tolist() == [4, 7]
    with pytest.raises(ValueError, match="layer 5 was not kept; kept are 4, 7"):
        seen.word("red", layer=5)
    with pytest.raises(ValueError, match="timestep 1 was not kept; kept are 2"):
        seen.word("red", timestep=1)
    with pytest.raises(ValueError, match=r"timesteps: must be in 1 to 3 .* got 4"), trace(tiny, timesteps=(4,)):
        call(tiny)


def test_several_images_are_told_apart(tiny):
    with trace(tiny, layers=(7,)) as seen:
        pair = call(tiny, ["sand", PROMPT], output_type="np").images
        alone = call(tiny).images[0]
    assert [one.prompt for one in seen] == ["sand", PROMPT, PROMPT]
    assert np.array_equal(seen[1].image, np.rint(pair[1] * 255).astype(np.uint8))
    with pytest.raises(ValueError, match=re.escape("3 images were seen; say which, such as seen[0].word(...)")):
        seen.word("red")
    seen[1].word("red").overlay(alone)
    with pytest.raises(ValueError, match="'red' is not among the prompt's tokens: sand"):
        seen[0].word("red")


def test_nothing_seen_is_said(tiny):
    with trace(tiny) as seen:
        pass
    with pytest.raises(ValueError, match="call the pipeline inside the with block"):
        _ = seen.words


def test_an_overlay_has_the_images_size_and_its_tokens(traced):
    image, seen = traced
    word = seen.word("circle")
    large = image.resize((256, 256))
    blocks = np.asarray(word.overlay(large, smooth=False)).astype(int)
    assert blocks.shape == (256, 256, 3)
    assert np.asarray(word.overlay(large)).tolist() != blocks.tolist()
    _, shares = heat(word.map.values, (256, 256), smooth=False)
    for row, col in ((0, 0), (4, 5), (7, 7)):
        assert np.ptp(shares[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32]) == 0
    assert np.unravel_index(shares.argmax(), shares.shape)[0] // 32 == word.peak_place[0]
    assert np.asarray(Image.open(io.BytesIO(word._repr_png_()))).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="300 x 100 px, the map 8 x 8 tokens, which are other proportions"):
        word.overlay(image.resize((300, 100)))


def test_white_and_zero_are_drawn_as_they_are():
    """The naive twin, one pixel at a time."""
    image = np.full((4, 4, 3), 200, np.uint8)
    grid = np.array([[0.0, 0.5], [np.nan, 1.0]])
    made = np.asarray(overlay(image, grid, smooth=False)).astype(float)
    colors, _ = heat(grid, (4, 4), smooth=False)
    for row in range(4):
        for col in range(4):
            solid = 0.25 + 0.6 * np.sqrt(np.nan_to_num(grid[row // 2, col // 2]))
            np.testing.assert_allclose(made[row, col], (1 - solid) * 200 + solid * colors[row, col], atol=0.51)


def test_latents_are_no_image(tiny):
    with trace(tiny, layers=(7,), timesteps=(1,)) as seen:
        call(tiny, output_type="latent")
    word = seen.word("red")
    assert seen.image is None
    with pytest.raises(ValueError, match="no image was seen"):
        word.overlay()
    assert word.picture().size == (256, 256)
    assert word.overlay(np.zeros((64, 64, 3), np.uint8)).size == (64, 64)


@pytest.mark.parametrize("name", ["flux", "qwen-image"])
def test_other_families(name):
    pipe = small_pipeline(name)
    given = {"num_inference_steps": 2, "height": 32, "width": 64, "max_sequence_length": 32}
    with trace(pipe) as seen:
        image = pipe("a red circle", **given).images[0]
    assert seen.word("circle").overlay(image).size == (64, 32)
    assert "not known for this model" in seen.why[-1]
    assert seen.word("circle").layer is None
    photo = fitted(scene("test", 0).image, 8, 32)[:24]
    read = read_image(pipe, photo, ["red circle"], timesteps=(8,))
    assert read.word("red circle").overlay().size == (32, 24)


def test_given_images_are_read_as_the_maps_command_reads_them(tiny):
    own = Image.fromarray(scene("val", 0).image).resize((900, 500))
    seen = read_image(tiny, own, ["grass", "red circle"], timesteps=(8, 2))
    copy = fitted(np.asarray(own), token_pixels(tiny), native_size(tiny))
    places = [list(seen.word(word).places) for word in ("grass", "red circle")]
    record = record_image(tiny, copy, "grass red circle", [WordMaps(places)], (8, 2), GenerationConfig()).record
    for number, word in enumerate(("grass", "red circle")):
        expected = record["word_map"].sel(layer=7, timestep=8).isel(word=number)
        np.testing.assert_allclose(seen.word(word).map, expected, rtol=1e-4)
    assert seen.word("grass").overlay().size == (900, 500)
    assert np.array_equal(seen.image, np.asarray(own))
    assert "8 x 4 tokens of 8 px: width / height is 2.00, not 1.80." in seen.notes[0]
    assert seen.words["word"].tolist() == ["grass", "red circle"]


def test_given_images_files_and_sentences(tiny, tmp_path):
    Image.fromarray(scene("val", 0).image).save(tmp_path / "photo.png")
    seen = read_image(tiny, tmp_path / "photo.png", "a circle on grass", layers="expert", timesteps=(8,))
    assert (seen.words["word"].tolist(), seen.notes) == (["circle", "grass"], ())
    named = read_image(tiny, tmp_path / "photo.png", "grass", prompt="a circle on grass", layers=(7,), timesteps=(8,))
    assert named.words["word"].tolist() == ["grass"]
    assert named.words["share"].tolist() == seen.words["share"].tolist()[1:]
    with pytest.raises(ValueError, match="words: 'square' is not among the prompt's tokens: a circle"):
        read_image(tiny, tmp_path / "photo.png", ["square"], prompt="a circle")
    with pytest.raises(ValueError, match="no file"):
        read_image(tiny, tmp_path / "none.png", ["sand"])


def test_what_is_chosen_depends_on_the_grid(tiny):
    small, large = (plan_of(tiny, GenerationConfig(height=side, width=side)) for side in (64, 256))
    assert (len(small.layers), len(small.timesteps)) == (12, 28)
    assert len(large.layers) == 6
    assert 7 in large.layers
    assert sorted(large.timesteps) == [8, 28]
    assert "with the expert layer 7" in large.why[0]
    assert "Timesteps 8, 28 of 28 are kept: those that the paper reads" in large.why[1]
    few = plan_of(tiny, GenerationConfig(steps=4), timesteps=(3, 4))
    assert few.timestep == 3  # the nearest to 8 of 28, which is 1 of 4
    assert "as asked" in few.why[1]
    assert "not among them" in plan_of(tiny, GenerationConfig(), layers=(3, 4)).why[2]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"num_inference_steps": 5}, 5),
        ({"num_inference_steps": 5, "strength": 0.5}, 2),
        ({"num_inference_steps": 5, "sigmas": [1.0, 0.5]}, 2),
        ({"num_inference_steps": 5, "timesteps": [3, 2, 1]}, 3),
    ],
)
def test_the_number_of_steps_is_that_of_the_call(arguments, steps):
    assert steps_of(None, arguments) == steps


def test_a_call_that_does_not_tell_its_steps_is_refused():
    with pytest.raises(ValueError, match="NoneType does not say how many sampling steps it takes"):
        steps_of(None, {})


def test_images_of_every_kind_of_output():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    as_float = image / 255
    outputs = [
        SimpleNamespace(images=[Image.fromarray(image)]),
        SimpleNamespace(images=as_float[None]),
        SimpleNamespace(images=torch.from_numpy(as_float).permute(2, 0, 1)[None]),
        ([Image.fromarray(image)],),
        SimpleNamespace(frames=[[Image.new("RGB", (4, 2)), Image.fromarray(image)]]),
    ]
    for output in outputs:
        assert np.array_equal(images_of(output)[0], image)
    assert images_of(SimpleNamespace(images=torch.zeros(1, 16, 8, 8))) == [None]
    assert images_of(SimpleNamespace()) == []


def test_sideways_photos_are_turned():
    photo = Image.new("RGB", (4, 2))
    photo.getexif()[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", exif=photo.getexif())
    assert pixels_of(Image.open(buffer)).shape == (4, 2, 3)


def test_notebooks_show_words_and_why(traced):
    _, seen = traced
    shown = seen._repr_html_()
    assert shown.count("data:image/png;base64") == 5  # the image, and four words
    assert "circle#2" in shown
    assert "A word's map is of layer 7".replace("'", "&#x27;") in shown
    assert "share" in seen.word("red")._repr_html_()
    assert repr(seen.word("red")).startswith("Word(red: layer 7, timestep 1, share ")


def test_the_explorer_is_that_of_this_run(traced):
    page = traced[1].explore()
    assert page.groups == 4
    assert PROMPT in page.text
