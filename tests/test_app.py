"""The app without its page: what a view shows is what was seen; and how serve refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdit_probe.app import Reader, View
from mmdit_probe.app.reader import (
    first_view,
    grid_of,
    heads_of,
    layer_pictures,
    overlay_of,
    picture_of,
    says,
    table_of,
    words_of,
    write_pages,
)
from mmdit_probe.configs import ServeConfig
from mmdit_probe.configs.generation import SamplingConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.figures.overlay import overlay
from mmdit_probe.storage.images import save_image

PROMPT = "a red circle on a blue circle"


@pytest.fixture(scope="module")
def seen(tiny):
    return Reader(tiny, ServeConfig(), "tiny-sd3").generate(PROMPT, 3, 1)


def test_the_image_is_the_pipelines_own(tiny, seen):
    plain = tiny(
        PROMPT,
        num_inference_steps=3,
        max_sequence_length=0,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    np.testing.assert_array_equal(seen.image, np.asarray(plain))
    shown = picture_of(seen)
    np.testing.assert_array_equal(shown[3::6, 3::6], seen.image)  # each pixel a block of 6 x 6
    assert shown.shape == (384, 384, 3)


def test_first_is_the_word_with_the_largest_share_in_the_expert_layer(seen):
    view = first_view(seen)
    assert words_of(seen) == ["red", "circle#1", "circle#2", "blue"]
    assert (view.layer, view.timestep, view.heads) == (7, 1, "all")
    shares = {word: seen.word(word).share for word in words_of(seen)}
    assert view.word == max(shares, key=shares.get)


def test_a_view_is_the_map_of_its_word_layer_timestep_and_heads(seen):
    view = View("blue", 4, 3)
    np.testing.assert_array_equal(grid_of(seen, view), seen.word("blue", layer=4, timestep=3).map)
    each = [grid_of(seen, replace(view, heads=label)) for label in heads_of(seen)[1:]]
    np.testing.assert_allclose(np.mean(each, 0), grid_of(seen, view), rtol=1e-5)  # the law: heads average to their mean
    layers = [grid_of(seen, replace(view, layer=layer)) for layer in seen.plan.layers]
    np.testing.assert_allclose(grid_of(seen, replace(view, layer="mean")), np.mean(layers, 0), rtol=1e-5)
    for smooth in (True, False):
        drawn = overlay_of(seen, replace(view, smooth=smooth))
        wanted = overlay(picture_of(seen), grid_of(seen, view), smooth=smooth)
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(wanted))


def test_layers_are_drawn_on_one_scale(seen):
    pictures = layer_pictures(seen, View("blue", 4, 3, smooth=False))
    assert [name for _, name in pictures] == [f"layer {layer}" for layer in range(12)]
    grids = [grid_of(seen, View("blue", layer, 3)) for layer in range(12)]
    strongest = int(np.argmax([grid.max() for grid in grids]))
    spread = [np.asarray(picture, float).std(axis=(0, 1)).sum() for picture, _ in pictures]
    assert spread[strongest] > np.median(spread)
    assert all(picture.size == (160, 160) for picture, _ in pictures)


def test_what_is_said_is_what_is_drawn(seen):
    view = first_view(seen)
    word = seen.word(view.word)
    line = says(seen, view)
    assert f"{word.share:.2%} of the image's attention" in line
    assert f"{word.peak:.2%}" in line
    assert "layer 7, timestep 1 of 3" in line
    table = table_of(seen)
    assert table["word"].tolist() == words_of(seen)
    np.testing.assert_allclose(table["share, %"], 100 * seen.words["share"], atol=0.005)


def test_pages_are_written(seen, tmp_path):
    explorer, report = write_pages(seen, tmp_path)
    assert "tiny-sd3" in explorer.read_text()
    assert report.stat().st_size > 50_000


def test_an_image_is_read_from_its_file(tiny, tmp_path):
    drawn = scene("val", 0)
    save_image(drawn.image, tmp_path / "scene.png")
    reader = Reader(tiny, ServeConfig(layers=(7,), timesteps=(8,), sampling=SamplingConfig(steps=28)))
    seen = reader.read(tmp_path / "scene.png", "grass circle", 28, 0)
    np.testing.assert_array_equal(seen.image, drawn.image)
    assert words_of(seen) == ["grass", "circle"]
    assert first_view(seen).layer == 7


def test_without_words_the_image_alone_is_shown(seen):
    bare = replace(seen, text=None)
    view = first_view(bare)
    assert (view.word, words_of(bare), says(bare, view), layer_pictures(bare, view)) == (None, [], "", [])
    np.testing.assert_array_equal(np.asarray(overlay_of(bare, view)), picture_of(bare))
    assert overlay_of(replace(bare, image=None), view) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("  ", 2, 0), "the prompt is empty"),
        (("sand", 0, 0), "steps must be 1 to 1000, got 0"),
        (("sand", 2, -1), "seed must be 0 to 4294967295, got -1"),
        (("sand " * 40, 2, 0), "more than the 24 tokens"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(tiny, given, message):
    with pytest.raises(ValueError, match=message):
        Reader(tiny).generate(*given)


def test_serve_without_gradio_is_one_line(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    code, out, err = run("serve", model=False)
    assert (code, out) == (2, "")
    assert err.strip().splitlines()[-1] == "error: serve needs Gradio 6: pip install 'mmdit-probe[app]'"


def test_ports_are_checked_first(run):
    code, _, err = run("serve", "--port", "70000", model=False)
    assert code == 2
    assert "port" in err
    assert not list(Path.cwd().iterdir())
