"""The explorer's contents, precision and size; the page in a browser is tested in test_explorer_page.py."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch
import xarray as xr
from explorer_records import random_contents, random_record
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from naive import full_matrix, random_call
from test_cli_studies import refused

from mmdit_probe import I2TMaps, Probe, TokenLayout, save_record
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.configs import ExploreConfig, GenerationConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.explorer import contents_of, make_page, measure_exploration
from mmdit_probe.explorer.measure import chosen, spread
from mmdit_probe.explorer.quantize import MAP_ERROR, SHARE_ERROR, quantized, quantized_shares
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.head_groups import HeadGroupMaps, group_labels, group_sizes
from mmdit_probe.storage.images import save_image

PROMPT = "a red circle on grass"
GENERATION = GenerationConfig(steps=3, guidance_scale=3.0, max_sequence_length=3)


def config(**changes):
    return ExploreConfig(prompt=PROMPT, generation=GENERATION, **changes)


# --- the readout


@pytest.mark.parametrize("groups", [1, 2, 3, 8])
def test_a_groups_map_is_the_mean_over_its_heads_of_the_full_softmax(groups):
    layout = TokenLayout((2, 3), 4, "text-image")
    call = random_call(2, 5, layout.tokens, 8)
    found = read([HeadGroupMaps(groups)], JointAttention(call, layout))["i2t_group"]
    matrix = full_matrix(call)[:, :, layout.image_slice, layout.text_slice]
    start = 0
    for number, size in enumerate(group_sizes(5, groups)):
        slow = sum(matrix[:, head] for head in range(start, start + size)) / size
        torch.testing.assert_close(found.values[:, number].flatten(1, 2), slow.float(), rtol=1e-4, atol=1e-7)
        start += size
    assert start == 5
    assert found.dims == ("batch", "head_group", "row", "col", "token")


def test_groups_are_runs_of_neighbors():
    assert group_sizes(10, 4) == [3, 3, 2, 2]
    assert group_labels([3, 1, 2]) == ["0-2", "3", "4-5"]
    assert group_labels(group_sizes(2, 8)) == ["0", "1"]
    with pytest.raises(ValueError, match="at least 1"):
        HeadGroupMaps(0)


# --- precision


def restored(codes, largest):
    """What page.js shows for a map's codes."""
    return (codes.astype(np.float32) / 255) ** 2 * largest[..., None]


def restored_shares(codes):
    """What page.js shows for the codes of shares."""
    return codes.astype(np.float32) / 65535


@given(arrays.arrays(np.float32, (3, 40), elements=st.floats(0, 1, width=32)))
def test_maps_are_off_by_what_the_page_says(maps):
    codes, largest = quantized(maps)
    assert codes.dtype == np.uint8
    error = np.abs(restored(codes, largest) - maps)
    root = np.sqrt(maps / np.maximum(largest, 1e-30)[:, None])
    bound = largest[:, None] * (root / 255 + 1 / 510**2)
    assert (error <= bound * (1 + 1e-4) + 1e-12).all()
    assert (error <= MAP_ERROR * largest[:, None] * 1.001).all()
    np.testing.assert_allclose(restored(codes, largest).max(-1), largest, rtol=1e-6)


@given(arrays.arrays(np.float32, 50, elements=st.floats(0, 1, width=32)))
def test_shares_are_off_by_what_the_page_says(shares):
    assert np.abs(restored_shares(quantized_shares(shares)) - shares).max() <= SHARE_ERROR + 1e-7


def test_a_map_of_zeros_and_a_layer_that_did_not_run():
    codes, largest = quantized(np.array([[0.0, 0.0], [np.nan, 0.5]]))
    assert largest.tolist() == [0, 0.5]
    assert restored(codes, largest).tolist() == [[0, 0], [0, 0.5]]


# --- the record


def test_the_record_holds_the_probes_own_maps_and_curves_of_every_layer(random_pipe):
    recording = measure_exploration(random_pipe, config(layers=(2,), timesteps=(1,)))
    record = recording.record
    assert record["map_layer"].values.tolist() == [2]
    assert record["region_mass"].sizes["layer"] == 3
    with Probe(random_pipe, [I2TMaps("all")], steps=[2]) as probe:
        random_pipe(PROMPT, num_inference_steps=3, guidance_scale=3.0, max_sequence_length=3, output_type="latent",
                    generator=torch.Generator().manual_seed(0))  # fmt: skip
    alone = probe.dataset("conditional")["i2t"].isel(call=0, batch=0).sel(layer=2)
    np.testing.assert_allclose(record["i2t_group"].isel(timestep=0, map_layer=0).values, alone.values, rtol=1e-5)
    assert list(record["token_kind"].values[:3]) == ["start", "word", "word"]
    i2t = record["i2t_group"].isel(timestep=0, map_layer=0).sum("token").mean(("row", "col"))
    mass = record["region_mass"].isel(timestep=0).sel(layer=2, region="I2T")
    np.testing.assert_allclose(i2t.values, mass.values, rtol=1e-4)


def test_two_probes_of_one_pipeline_both_know_the_prompt(random_pipe):
    with Probe(random_pipe, [I2TMaps()]) as outer:
        with Probe(random_pipe, [I2TMaps()]) as inner:
            random_pipe("sand", num_inference_steps=1, max_sequence_length=3)
        random_pipe("grass", num_inference_steps=1, max_sequence_length=3)
    assert "encode_prompt" not in vars(random_pipe)
    assert inner.dataset("conditional")["token_text"].values[0, 1] == "sand"
    assert len(outer.dataset("conditional")["call"]) == 2


def test_small_grids_keep_everything_large_ones_a_choice(random_pipe):
    assert chosen(random_pipe, config()) == ((0, 1, 2), (3, 2, 1))
    assert chosen(random_pipe, config(small=10))[1] == (3, 1)  # 28 and 8 of 28, in 3 steps
    assert chosen(random_pipe, config(layers=(1,), timesteps=(2,))) == ((1,), (2,))
    assert chosen(random_pipe, config(), np.zeros((640, 640, 3), np.uint8))[1] == (3, 1)
    assert spread(range(24), 9) == (0, 5, 9, 14, 18, 23)
    assert spread(range(24), 8) == (0, 5, 8, 14, 18, 23)
    assert spread(range(3), None) == (0, 1, 2)


def test_a_given_image_is_explored_too(random_pipe):
    image = scene("test", 0).image
    recording = measure_exploration(random_pipe, config(timesteps=(2, 1)), image)
    assert recording.record["region_mass"].sizes["timestep"] == 2
    page = make_page(contents_of(recording.record), recording.image)
    assert "an image that was read, one forward pass per timestep" in page.text


# --- contents


def test_a_pixels_shares_are_its_whole_attention(random_pipe):
    contents = contents_of(measure_exploration(random_pipe, config()).record)
    maps = contents.group_maps(1, 2)
    shares, tokens = contents.shares(maps), contents.token_maps(maps)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    word = 1 + contents.kinds.index("word")
    chosen_tokens = [number for number, token in enumerate(contents.tokens) if token.kind == "word"]
    np.testing.assert_allclose(shares[:, word], tokens[:, chosen_tokens].sum(1), rtol=1e-5)
    np.testing.assert_allclose(maps[0], maps[1:].mean(0), rtol=1e-5)  # 4 heads, each its own group


def test_joined_groups_are_weighted_by_their_heads():
    contents = random_contents(heads=(3, 1, 2))
    joined = contents.merged(2)
    assert joined.sizes == (4, 2)
    maps = contents.maps.values
    np.testing.assert_allclose(joined.maps.values[:, :, 0], (3 * maps[:, :, 0] + maps[:, :, 1]) / 4, rtol=1e-5)
    np.testing.assert_allclose(joined.group_maps(0, 0)[0], contents.group_maps(0, 0)[0], rtol=1e-5)
    assert contents.merged(5) is contents


def test_tokens_that_are_looked_at_alike_are_kept_once():
    kinds = ["start", "word", "end", "padding", "padding", "absent", "absent", "absent"]
    record = random_record(kinds=kinds)
    record["i2t_group"][..., 5:] = record["i2t_group"].values[..., 5:6]
    tokens = contents_of(record).tokens
    assert [token.places for token in tokens] == [(0,), (1,), (2,), (3,), (4,), (5, 6, 7)]
    record["i2t_group"][0, 0, 0, 0, 0, 7] += 0.01
    assert [token.places for token in contents_of(record).tokens][-2:] == [(5, 6), (7,)]


def test_it_opens_at_the_expert_layer_on_the_word_that_stands_out():
    record = random_record(kinds=["start", "word", "word", "end"], words=["<s>", "on", "circle", "</s>"])
    record["i2t_group"][:] = 0.01
    record["i2t_group"][1, 1, :, 0, 0, 1] = 0.9  # "on" is no content word
    record["i2t_group"][1, 1, :, 1, 2, 2] = 0.5
    contents = contents_of(record.assign_attrs(expert_layer=5))
    assert contents.start() == {"timestep": 1, "layer": 1, "token": 2, "place": 1 * 4 + 2}


def test_a_probes_own_record(random_pipe):
    with Probe(random_pipe, [I2TMaps("all")]) as probe:
        random_pipe(PROMPT, num_inference_steps=2, max_sequence_length=3)
    contents = contents_of(probe.dataset())
    assert contents.maps.sizes["head_group"] == 4
    assert contents.maps["timestep"].values.tolist() == [0, -1]
    np.testing.assert_array_equal(
        contents.maps.values[1, 2, 3], probe.dataset("conditional")["i2t"].values[1, 0, 2, 3].transpose(2, 0, 1)
    )
    assert '"name":"step 1"' in make_page(contents, None).text


def test_a_bare_transformers_text_has_no_words(sd3, inputs):
    with Probe(sd3, [I2TMaps()]) as probe:
        sd3(**inputs)
    contents = contents_of(probe.dataset())
    assert contents.kinds == ["text"]
    assert contents.start()["token"] == 0
    assert contents.maps.shape == (1, 3, 1, 7, 4, 6)


def test_records_without_maps_are_refused(random_pipe):
    from mmdit_probe import RegionMass

    with Probe(random_pipe, [RegionMass()]) as probe:
        random_pipe("sand", num_inference_steps=1, max_sequence_length=3)
    with pytest.raises(ValueError, match=r"holds no I2T maps \(it has region_mass\)"):
        contents_of(probe.dataset())
    with pytest.raises(ValueError, match=r"no maps of layers \[4\]; it has them of \[3, 5\]"):
        contents_of(random_record(), layers=(4,))


# --- the page


def unpacked(page, name, kind):
    code = re.search(f'id="{name}">([^<]*)<', page.text).group(1)
    return np.frombuffer(zlib.decompress(base64.b64decode(code)), kind)


def test_the_page_holds_the_maps(random_pipe):
    contents = contents_of(measure_exploration(random_pipe, config()).record)
    page = make_page(contents, None)
    largest = unpacked(page, "largest", "<f4").reshape(3, 3, 5, 25)  # of 3 absent positions, all alike, one is kept
    codes = unpacked(page, "maps-1-2", np.uint8).reshape(5, 25, 64)
    exact = contents.maps.values[1, 2, 3].reshape(27, 64)
    np.testing.assert_allclose(restored(codes[4], largest[1, 2, 4]), exact[:25], atol=MAP_ERROR * exact.max())
    shares = unpacked(page, "shares-1", "<u2").reshape(3, 5, 1 + len(contents.kinds), 64)
    np.testing.assert_allclose(restored_shares(shares[2, 4, 0]), 1 - exact.sum(0), atol=2 * SHARE_ERROR)


def test_nothing_is_fetched_and_nothing_escapes(random_pipe):
    record = measure_exploration(random_pipe, config(timesteps=(1,))).record
    evil = "</title></script><script>alert(1)</script><!-- maps -->"
    record["token_text"] = ("token", np.array([evil] + ["word"] * 26))
    page = make_page(contents_of(record.assign_attrs(prompt=evil, model=evil)), None)
    assert "alert(1)</script>" not in page.text
    assert "<script>alert" not in page.text
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.text, re.S).group(1))
    assert data["prompt"] == data["facts"][0] == data["tokens"][0]["text"] == evil
    text = page.text.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|@import|url\(|src=", text)
    assert "default-src 'none'" in text


def test_tiny_sd3_with_all_layers_and_timesteps_fits(tiny):
    recording = measure_exploration(tiny, ExploreConfig(prompt="a red circle and a blue star on grass"))
    page = make_page(contents_of(recording.record), recording.image)
    assert recording.record["i2t_group"].shape[:3] == (28, 12, 4)
    assert page.groups == 4
    assert page.megabytes < 15


def test_an_sd3_size_record_with_6_layers_fits():
    """64 x 64 tokens, 154 text tokens, 24 layers, 24 heads; noise, which does not compress, is the worst case."""
    generator = np.random.default_rng(0)
    noise = generator.dirichlet(np.ones(8), size=(6, 2, 64, 64)).astype(np.float32) / 20
    maps = np.concatenate([np.roll(noise, shift, 2 + shift % 2) for shift in range(20)], -1)[None, ..., :154]
    kinds = ["start", *["word"] * 20, "end", *["padding"] * 55, *["absent"] * 77]
    record = random_record(kinds=kinds, maps=maps, layers=range(24), kept=range(0, 24, 4), heads=(12, 12))
    image = generator.integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
    page = make_page(contents_of(record), np.tile(image[::8, ::8], (8, 8, 1)))
    assert page.groups >= 1
    assert 5 < page.megabytes < 15


def test_groups_of_heads_give_way_to_size():
    contents = random_contents(heads=(1,) * 8, grid=(24, 24))
    whole = make_page(contents, None)
    assert whole.groups == 8
    half = make_page(contents, None, 0.6 * whole.megabytes)
    assert 1 <= half.groups < 8
    assert half.megabytes <= 0.6 * whole.megabytes
    assert len(unpacked(half, "largest", "<f4")) == 4 * (half.groups + (half.groups > 1)) * 4
    with pytest.raises(ValueError, match=r"2 layers x 2 timesteps .* need about .* more than 0.05; keep fewer"):
        make_page(contents, None, 0.05)


def test_a_notebook_shows_the_page_in_a_frame():
    page = make_page(random_contents(), None)
    shown = page._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown


# --- the command


def test_explore_writes_one_page_and_its_record_makes_it_again(run, tmp_path):
    code, out, _ = run("explore", "--prompt", PROMPT, "--steps", "2", "--out", "page.html", "--save-record", "kept.nc")
    assert code == 0
    assert (
        "8 x 8 image tokens, 101 text tokens, 3 layers, 2 timesteps, the mean over heads and each of the 4 heads" in out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.nc", "page.html", "run.json"]
    again = run("explore", "kept.nc", "--out", "again/again.html", "--json")
    assert json.loads(again[1])["layers"] == [0, 1, 2]
    assert (tmp_path / "again" / "again.html").read_text() == (tmp_path / "page.html").read_text()


def test_explore_reads_what_maps_left(run, tmp_path):
    few = ["--words", "red,circle,grass", "--steps", "2", "--timesteps", "1", "--out", "a"]
    assert run("maps", "--prompt", PROMPT, *few)[0] == 0
    code, out, _ = run("explore", "a/maps.nc", "--layers", "1,2", "--out", "page.html")
    assert code == 0
    assert "3 text tokens, 2 layers, 1 timestep," in out
    text = (tmp_path / "page.html").read_text()
    assert '"whole":false' in text
    assert '"source":"data:image/png' in text  # image.png beside it


def test_explore_a_image_without_words(run, tmp_path):
    save_image(scene("test", 1).image, tmp_path / "scene.png")
    code, _, _ = run("explore", "--image", "scene.png", "--timesteps", "1", "--layers", "all", "--out", "page.html")
    assert code == 0
    assert '"prompt":""' in (tmp_path / "page.html").read_text()


def test_bad_input_is_one_line(run, tmp_path):
    save_record(random_record(), tmp_path / "r.nc")
    save_image(np.zeros((30, 90, 3), np.uint8), tmp_path / "wide.png")
    assert refused(run("explore", "r.nc", "--prompt", "x"), "give RECORD.nc or --prompt, not both")
    assert refused(run("explore", "r.nc", "--image", "wide.png"), "90 x 30 px, the maps 4 x 3 tokens")
    assert refused(run("explore", "r.nc", "--layers", "9"), "it has them of [3, 5]")
    assert refused(run("explore", "missing.nc"), "no file missing.nc")
    assert refused(run("explore", "--prompt", "x", "--timesteps", "99"), "timesteps: must be in 1 to 28")
    assert refused(run("explore"), "give --prompt or --prompts FILE")
    assert not list(tmp_path.glob("results/explore/*"))


def test_t2i_maps_are_no_i2t_maps():
    record = xr.Dataset({"word_map": ("word", [0.5])}, {"word": ["sand"]}, {"direction": "t2i"})
    with pytest.raises(ValueError, match="holds no I2T maps"):
        contents_of(record)
