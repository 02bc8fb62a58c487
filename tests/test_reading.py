"""Other readings of words, and layers and heads put together: twins written out, laws, and the commands."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import I2TMaps, OpenVocabularySegmenter, OutputMaps, Probe, TokenLayout, load_record
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.surroundings import Surroundings
from mmdit_probe.configs import EvaluateConfig, GenerationConfig, MapsConfig, SegmentConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation.run import check
from mmdit_probe.pipelines.forward import forward_noisy
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.goca import HeadWeightedI2T, ReferenceAgreement, head_weights
from mmdit_probe.segmentation.layer_weights import read_weights
from mmdit_probe.segmentation.reading import AGGREGATED, Reading, ReadingReader
from mmdit_probe.segmentation.segmenters import read_class_maps
from mmdit_probe.studies.word_maps import measure_maps

IMAGES = [scene("test", number).image for number in (0, 1)]
NAMES = [["sand", "red circle"], ["lava", "blue square", "grass"]]
OPTIONS = {"steps": 4, "max_sequence_length": 3}


def maps_of(pipe, read="i2t", aggregate="layer", layers=None, timesteps=(1, 3)):
    reader = ReadingReader(pipe, Reading(read, aggregate), layers, timesteps, **OPTIONS)
    return read_class_maps(reader, IMAGES, NAMES), reader


def test_heads_are_weighted_by_what_they_add():
    """The slow twin: each head's vector in the output space, pixel by pixel."""
    layout = TokenLayout((2, 3), 4, "text-image")
    call, weight = random_call(2, 3, layout.tokens, 8), torch.randn(10, 24)
    attention = JointAttention(call, layout, around=Surroundings(weight))
    matrix, found = full_matrix(call), head_weights(attention, weight)
    maps = read([HeadWeightedI2T()], attention)["i2t"].values.flatten(1, 2)
    for batch in range(2):
        for pixel in range(6):
            rows = matrix[batch, :, layout.image_slice.start + pixel]
            added = [
                weight[:, 8 * h : 8 * h + 8].double() @ (rows[h] @ call.value[batch, h].double()) for h in range(3)
            ]
            agreement = torch.stack([(vector @ sum(added)).clamp(min=0) for vector in added])
            slow = agreement / agreement.sum()
            torch.testing.assert_close(found[batch, :, pixel], slow.float(), rtol=1e-3, atol=1e-5)
            expected = (slow[:, None] * rows[:, layout.text_slice]).sum(0)
            torch.testing.assert_close(maps[batch, pixel], expected.float(), rtol=1e-3, atol=1e-5)


def test_equal_heads_are_the_plain_mean():
    layout = TokenLayout((2, 3), 4)
    call = random_call(1, 1, layout.tokens, 8)
    twice = type(call)(*(x.repeat(1, 2, 1, 1) for x in (call.query, call.key, call.value)), call.arguments)
    half = torch.randn(10, 8)
    attention = JointAttention(twice, layout, around=Surroundings(half.repeat(1, 2)))
    weighted, plain = (read([readout], attention)["i2t"].values for readout in (HeadWeightedI2T(), I2TMaps()))
    torch.testing.assert_close(weighted, plain)


def test_the_agreement_is_a_sum_over_pairs_of_pixels():
    layout = TokenLayout((3, 4), 5)
    call, features = random_call(2, 3, layout.tokens, 8), torch.randn(2, 12, 16)
    found = read([ReferenceAgreement(features)], JointAttention(call, layout, halvings=7))["agreement"].values
    alike = (features @ features.transpose(-1, -2) / 4).softmax(-1)
    i2i = full_matrix(call)[:, :, layout.image_slice, layout.image_slice].mean(1)
    torch.testing.assert_close(found, (alike * i2i).sum((-2, -1)).float())


@pytest.mark.parametrize("read", ["t2i", "output", "concept", "contribution"])
def test_every_reading_gives_a_map_for_each_name(random_pipe, read):
    found, reader = maps_of(random_pipe, read)
    assert [tuple(maps.shape) for maps in found] == [(2, 3, 2, 8, 8), (2, 3, 3, 8, 8)]
    assert all(bool(maps.isfinite().all()) for maps in found)
    assert reader.layers == (0, 1, 2)
    assert not torch.allclose(found[0][0], found[0][1])
    mean, together = maps_of(random_pipe, read, "mean")
    assert together.layers == (AGGREGATED,)
    torch.testing.assert_close(mean[1], found[1].mean(1, keepdim=True))


def test_the_output_of_a_name_is_that_of_its_tokens(random_pipe):
    [found, _], reader = maps_of(random_pipe, "output", timesteps=(1,))
    features = reader.features(("sand red circle", "lava blue square grass"))
    with Probe(random_pipe, [OutputMaps()]) as probe:
        forward_noisy(random_pipe, reader.latents(IMAGES), reader.sigmas[0], features, 0, same_noise=True)
    maps = probe.fields()["output_map"].values[0, 0]
    torch.testing.assert_close(found[0, :, 1], maps[..., 2:4].mean(-1))


def test_weights_of_layers_and_heads_are_a_weighted_mean(random_pipe, tmp_path):
    by_layer, _ = maps_of(random_pipe)
    layers, heads, even = tmp_path / "layers.csv", tmp_path / "heads.csv", tmp_path / "even.csv"
    layers.write_text("layer,weight\n0,1\n2,3\n")
    heads.write_text("layer,head,weight\n1,0,2\n1,3,2\n")
    even.write_text("layer,head,weight\n" + "".join(f"{n},{h},1\n" for n in range(3) for h in range(4)))
    found, reader = maps_of(random_pipe, "i2t", f"weights:{layers}")
    torch.testing.assert_close(found[0][:, 0], 0.25 * by_layer[0][:, 0] + 0.75 * by_layer[0][:, 2])
    assert reader.settings == {"weights": [0.25, 0.0, 0.75]}
    torch.testing.assert_close(maps_of(random_pipe, "i2t", f"weights:{even}")[0][1], by_layer[1].mean(1, keepdim=True))
    one, _ = maps_of(random_pipe, "i2t", f"weights:{heads}")
    assert not torch.allclose(one[0], by_layer[0][:, 1:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,weight\n5,1\n", r"names the layers \[5\], which are not read"),
        ("layer,weight\n0,-1\n", "0 or more"),
        ("layer,weight\n0,0\n", "one must be above 0"),
        ("layer,weight\n0,1\n0,2\n", "once"),
        ("layer,weight\n0,much\n", "with a number in each row"),
        ("block,weight\n0,1\n", "columns layer and weight"),
        ("", "is no table"),
    ],
)
def test_weights_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "weights.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "weights.csv", (0, 1, 2))


def test_goca_puts_heads_and_layers_together(random_pipe):
    """Of one layer it is that layer's head-weighted maps, over the special tokens' share at each pixel."""
    found, reader = maps_of(random_pipe, "i2t", "goca", layers=[1], timesteps=(1,))
    features = reader.features(("sand red circle", "lava blue square grass"))
    with Probe(random_pipe, [HeadWeightedI2T()], layers=[1]) as probe:
        forward_noisy(random_pipe, reader.latents(IMAGES), reader.sigmas[0], features, 0, same_noise=True)
    maps = probe.fields()["i2t"].values[0, 0, 0]
    special = torch.from_numpy(features.text.kinds[0] != "word")
    slow = maps[..., 1] / maps[..., special].sum(-1)
    torch.testing.assert_close(found[0][0, 0, 0], slow)
    several, _ = maps_of(random_pipe, "i2t", "goca")
    assert several[0].shape == (2, 1, 2, 8, 8)
    assert bool((several[0] >= 0).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reading("t2i", "goca").checked(), "goca weights the heads of i2t"),
        (lambda: SegmentConfig(aggregate="median"), "must be layer, mean, goca or weights:FILE, got 'median'"),
        (lambda: EvaluateConfig(aggregate="weights:"), "needs a file"),
        (lambda: EvaluateConfig(read="i2i"), "read must be one of"),
        (lambda: check(EvaluateConfig(task="unsupervised", read="t2i")), "belong to the open-vocabulary task"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_segmenter_reads_what_is_asked(random_pipe):
    config = partial(SegmentConfig, steps=4, max_sequence_length=3)
    plain = OpenVocabularySegmenter(random_pipe, 1, config()).segment(IMAGES[0], NAMES[0])
    own = OpenVocabularySegmenter(random_pipe, 1, config(read="contribution")).segment(IMAGES[0], NAMES[0])
    mean = OpenVocabularySegmenter(random_pipe, None, config(aggregate="mean")).segment(IMAGES[0], NAMES[0])
    assert plain.settings["layer"] == own.settings["layer"] == 1
    assert mean.settings["layer"] == "mean of layers 0, 1, 2"
    assert not np.allclose(plain.logits, own.logits)
    with pytest.raises(ValueError, match="unrefined maps averaged over heads"):
        OpenVocabularySegmenter(random_pipe, 1, config(read="t2i", refine="i2i"))


def test_the_commands_take_a_reading(run, tmp_path):
    (tmp_path / "weights.csv").write_text("layer,weight\n0,1\n2,3\n")
    common = ["--steps", "4", "--max-sequence-length", "3", "--timesteps", "1", "--limit", "3"]
    code, out, err = run("evaluate", "scenes", *common, "--aggregate", "weights:weights.csv", "--layers", "0,2")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "results" / "evaluate" / "evaluate.csv")
    assert table["layer"].tolist() == ["i2t, weighted mean of layers 0, 2"]
    saved = json.loads((tmp_path / "results" / "evaluate" / "run.json").read_text())
    assert saved["weights"] == [0.25, 0.75]
    from PIL import Image

    Image.fromarray(IMAGES[0]).save(tmp_path / "one.png")
    own = ["one.png", "--classes", "sand,red circle", "--steps", "4", "--max-sequence-length", "3"]
    code, out, err = run("segment", *own, "--read", "output", "--aggregate", "mean", "--layers", "0-1")
    assert code == 0, err
    assert "mean of layers 0, 1, timestep" in out
    assert load_record(tmp_path / "results" / "segment" / "one_maps.nc").attrs["layer"] == "mean of layers 0, 1"
    code, _, err = run("segment", *own, "--read", "output", "--refine", "i2i", "--layers", "1", "--out", "o")
    assert (code, "unrefined maps" in err) == (2, True)


def maps_config(**more):
    generation = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
    own = {"prompt": "a red circle on grass", "words": ("red circle", "grass"), "timesteps": (1, 2)}
    return MapsConfig(**{**own, "generation": generation, **more})


@pytest.mark.parametrize("read", ["i2t", "t2i", "output", "concept", "contribution"])
def test_maps_of_words_by_every_reading(random_pipe, read):
    made, given = (
        measure_maps(random_pipe, maps_config(direction=read), image).record["word_map"] for image in (None, IMAGES[0])
    )
    for maps in (made, given):
        assert maps.dims == ("timestep", "layer", "word", "row", "col")
        assert maps.shape == (2, 3, 2, 8, 8)
        assert maps["word"].values.tolist() == ["red circle", "grass"]
        assert np.isfinite(maps.values).all()
    together = measure_maps(random_pipe, maps_config(direction=read, aggregate="mean"), IMAGES[0]).record["word_map"]
    assert together["layer"].values.tolist() == ["mean of 3 layers"]
    np.testing.assert_allclose(together.isel(layer=0), given.mean("layer"), rtol=1e-4, atol=1e-6)


def test_a_concept_need_not_stand_in_the_prompt(random_pipe):
    record = measure_maps(random_pipe, maps_config(direction="concept", words=("lava",), layers=(1,))).record
    assert record["word_map"].sizes["word"] == 1
    for wrong, message in (
        ({"direction": "output", "heads": "all"}, "no map for each head"),
        ({"aggregate": "goca"}, "goca is for segment and evaluate"),
        ({"aggregate": "mean", "heads": "all"}, "leave heads out"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_maps(random_pipe, maps_config(**wrong))


def test_the_maps_command_takes_a_reading(run, tmp_path):
    common = ["--prompt", "a red circle on grass", "--words", "red circle", "--steps", "2", "--timesteps", "1"]
    code, out, err = run("maps", *common, "--max-sequence-length", "0", "--read", "contribution", "--aggregate", "mean")
    assert code == 0, err
    assert "'red circle' peaks in mean of 3 layers at t = 1" in out
    table = pd.read_csv(tmp_path / "results" / "maps" / "maps.csv")
    assert table["layer"].tolist() == ["mean of 3 layers"]
    saved = load_record(tmp_path / "results" / "maps" / "maps.nc")["word_map"]
    assert "length of what the word's tokens add" in saved.attrs["long_name"]
