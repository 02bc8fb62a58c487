"""Segmenters on a small random pipeline; palettes, run-length codes and files by their laws."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mmdit_probe import I2TMaps, Probe, load_record
from mmdit_probe.configs import GroupConfig, SegmentConfig
from mmdit_probe.datasets.coco_rle import coco_annotations, encode_mask
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.pipelines.forward import add_noise, encode_images, encode_prompts, forward_once
from mmdit_probe.pipelines.prompts import find_words
from mmdit_probe.readouts import Field, Readout
from mmdit_probe.readouts.maps import I2TScores, RefinedI2T
from mmdit_probe.segmentation import OpenVocabularySegmenter, Segmentation, UnsupervisedSegmenter, segmenters
from mmdit_probe.segmentation import label_map as open_vocabulary
from mmdit_probe.segmentation.class_prompts import class_prompts
from mmdit_probe.segmentation.map_reader import MapReader
from mmdit_probe.segmentation.maps import make_readout, scaled
from mmdit_probe.segmentation.palette import palette, seen_as
from mmdit_probe.segmentation.render import blended, colored, displayed, sheet
from mmdit_probe.storage.images import cropped

CLASSES = ("grass", "wood floor", "circle")


def decode(code):
    """COCO's run-length code, one pixel at a time."""
    height, width = code["size"]
    pixels, value = [], False
    for count in code["counts"]:
        pixels += [value] * count
        value = not value
    return np.array(pixels, bool).reshape(width, height).T


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_run_length_codes_come_back(mask):
    code = encode_mask(mask)
    np.testing.assert_array_equal(decode(json.loads(json.dumps(code))), mask)
    assert sum(code["counts"]) == mask.size
    assert all(count > 0 for count in code["counts"][1:])


def test_run_length_codes_go_down_the_columns():
    assert encode_mask(np.array([[0, 1], [0, 1], [1, 0]], bool)) == {"size": [3, 2], "counts": [2, 3, 1]}
    assert encode_mask(np.ones((2, 2), bool))["counts"] == [0, 4]


def test_annotations_are_the_masks_of_the_classes_that_occur():
    labels = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)
    found = coco_annotations(labels, ("a", "b", "c"))
    assert [(a["category_id"], a["category"], a["area"], a["bbox"]) for a in found] == [
        (0, "a", 3, [0, 0, 2, 2]),
        (2, "c", 3, [1, 0, 2, 2]),
    ]
    for annotation in found:
        np.testing.assert_array_equal(decode(annotation["segmentation"]), labels == annotation["category_id"])


def test_colors_are_far_apart_for_every_kind_of_sight():
    for count, least in ((8, 15), (20, 15), (40, 10)):
        seen = seen_as(palette(count))
        apart = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1).min(0) + 1000 * np.eye(count)
        assert apart.min() > least, (count, apart.min())


def test_palettes_start_alike_and_hold_any_number():
    np.testing.assert_array_equal(palette(30)[:12], palette(12))
    assert len(np.unique(palette(256), axis=0)) == 256
    assert palette(300).shape == (300, 3)


def test_overlay_leaves_unlabeled_pixels_and_shows_pure_colors_at_full_opacity():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    labels = np.full((4, 6), 255, np.uint8)
    np.testing.assert_array_equal(blended(image, labels, 3), image)
    labels[:2] = 1
    np.testing.assert_array_equal(blended(image, labels, 3, 1.0)[:2], colored(labels, 3)[:2])
    np.testing.assert_array_equal(colored(labels, 3)[3], 0)


def test_the_sheet_is_the_right_way_up_and_names_what_occurs():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:5, :10] = 255
    shown = np.asarray(sheet(image, np.zeros((10, 20), np.uint8), ["sky", "sea"]))
    assert (shown[5, 5] == 255).all()
    assert (shown[150, 5] == 0).all()
    more = sheet(image, np.eye(10, 20, dtype=np.uint8), ["sky", "a much longer name than the other"])
    assert more.width > shown.shape[1]


def test_large_images_are_shown_smaller_and_keep_their_labels():
    image, labels = np.zeros((1500, 3000, 3), np.uint8), np.zeros((1500, 3000), np.uint8)
    labels[:, 1500:] = 7
    assert displayed(image).shape == (512, 1024, 3)
    assert set(np.unique(displayed(labels))) == {0, 7}
    assert sheet(image, labels, [str(n) for n in range(8)]).height == 512


@pytest.mark.parametrize("elements", [1, 130, 1 << 20])
def test_labels_do_not_depend_on_how_many_classes_are_upsampled_at_once(monkeypatch, elements):
    monkeypatch.setattr(open_vocabulary, "MAX_ELEMENTS", elements)
    maps = torch.rand(7, 4, 5)
    maps[5] = maps[2]  # of equal maps the first one counts
    big = torch.nn.functional.interpolate(maps[None], size=(8, 10), mode="bilinear")[0]
    assert torch.equal(open_vocabulary.label_map(maps, (8, 10)), big.argmax(0))


@pytest.fixture
def image():
    return scene("val", 0).image


def by_hand(pipe, image, prompt, words, layer, timestep_sigma):
    """Class maps from a forward pass written out."""
    features = encode_prompts(pipe, [prompt], 77)
    latents = add_noise(encode_images(pipe, [image]), timestep_sigma, 0)
    with Probe(pipe, [I2TMaps()]) as probe:
        forward_once(pipe, latents, timestep_sigma, features)
    maps = probe.dataset()["i2t"].sel(layer=layer).isel(call=0, batch=0)
    spans = find_words(probe.family.text_parts(pipe, 77), prompt, words)
    return np.stack([maps.isel(token=span).mean("token") for span in spans])


def test_labels_are_the_argmax_of_the_names_maps(random_pipe, image):
    segmenter = OpenVocabularySegmenter(random_pipe, layer=1)
    made = segmenter(image, CLASSES)
    expected = by_hand(random_pipe, image, " ".join(CLASSES), CLASSES, 1, made.settings["sigma"])
    np.testing.assert_allclose(made.logits, expected, atol=1e-6)
    big = torch.nn.functional.interpolate(torch.from_numpy(made.logits)[None], size=(64, 64), mode="bilinear")[0]
    np.testing.assert_array_equal(made.labels, big.argmax(0).numpy())
    assert made.classes == CLASSES
    assert made.settings["layer"] == 1
    assert sum(made.shares.values()) == pytest.approx(1)


def test_a_image_does_not_depend_on_its_neighbors(random_pipe, image):
    segmenter = OpenVocabularySegmenter(random_pipe, layer=1)
    wide = np.asarray(Image.fromarray(image).resize((90, 50)))
    together = segmenter.batch([wide, Image.fromarray(image)], CLASSES)
    assert [made.labels.shape for made in together] == [(50, 90), (64, 64)]
    np.testing.assert_allclose(together[1].logits, segmenter(image, CLASSES).logits, atol=1e-6)


def test_only_the_blocks_up_to_the_layer_run_and_prompts_are_encoded_once(random_pipe, image, monkeypatch):
    ran = []
    for number, block in enumerate(random_pipe.transformer.transformer_blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    segmenter = OpenVocabularySegmenter(random_pipe, layer=1)
    encoded = []
    kind = type(random_pipe)
    original = kind.encode_prompt
    monkeypatch.setattr(kind, "encode_prompt", lambda *a, **k: encoded.append(a) or original(*a, **k))
    for _ in range(3):
        segmenter(image, CLASSES)
    assert set(ran) == {0}
    assert len(encoded) == 1


def test_names_beyond_the_tokenizer_are_split_over_prompts(random_pipe, image):
    from mmdit_probe.datasets.scenes import CLASSES as NAMES

    many = tuple(f"{color} {name}" for name in NAMES for color in ("red", "blue"))
    parts = class_prompts(random_pipe, many, 0)
    assert len(parts) > 1
    assert [number for part in parts for number in part.numbers] == list(range(len(many)))
    made = OpenVocabularySegmenter(random_pipe, layer=1)(image, many)
    assert made.logits.shape == (len(many), 8, 8)
    part = parts[1]
    names = [many[number] for number in part.numbers]
    alone = OpenVocabularySegmenter(random_pipe, layer=1)(image, names)
    np.testing.assert_allclose(made.logits[list(part.numbers)], alone.logits, atol=1e-6)


def test_spans_are_each_names_own_tokens(random_pipe):
    (part,) = class_prompts(random_pipe, ["red star", "star", "blue star"], 0)
    ids = random_pipe.tokenizer(part.prompt).input_ids
    assert part.spans == ((1, 2), (3,), (4, 5))
    assert ids[2] == ids[3] == ids[5]


def test_names_of_any_characters_have_tokens_of_their_own(random_pipe, image, capfd):
    names = ["😀 lava", "日本", "night  sky", "$x$", "Ünïted", "sand"]
    parts = class_prompts(random_pipe, names, 0)
    spans = [span for part in parts for span in part.spans]
    assert len(spans) == len(names)
    for part in parts:
        taken = [position for span in part.spans for position in span]
        ids = random_pipe.tokenizer(part.prompt).input_ids
        assert taken == list(range(1, len(ids) - 1))  # every token but start and end belongs to one name
    assert OpenVocabularySegmenter(random_pipe, layer=1)(image, names).logits.shape == (6, 8, 8)
    assert "longer than the specified maximum" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "at least one name"),
        (["grass", " "], "no empty one"),
        (["grass", "sand", "grass"], "'grass' is given more than once"),
        ("grass", "a list of names"),
        ([" ".join(["grass"] * 40)], "has 40 tokens"),
    ],
)
def test_bad_class_lists_are_explained(random_pipe, image, classes, message):
    with pytest.raises(ValueError, match=message):
        OpenVocabularySegmenter(random_pipe, layer=1)(image, classes)


def test_a_model_without_a_known_expert_asks_for_a_layer(random_pipe, monkeypatch):
    from mmdit_probe.pipelines import defaults

    monkeypatch.setattr(defaults, "model_defaults", lambda pipe: defaults.ModelDefaults(None))
    with pytest.raises(ValueError, match="give a layer number"):
        OpenVocabularySegmenter(random_pipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "left"}, "crop must be one of stretch, center"),
        ({"refine": "hard"}, "refine must be one of none, i2i"),
        ({"timestep": 0}, "timestep must be 1 or more"),
    ],
)
def test_bad_settings_are_explained(random_pipe, image, settings, message):
    with pytest.raises(ValueError, match=message):
        OpenVocabularySegmenter(random_pipe, 1, SegmentConfig(**settings))(image, CLASSES)


def test_images_must_be_rgb(random_pipe):
    with pytest.raises(ValueError, match="uint8 RGB"):
        OpenVocabularySegmenter(random_pipe, 1)(np.zeros((4, 4)), CLASSES)


def test_the_center_square_is_cut_out():
    wide = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    np.testing.assert_array_equal(cropped(wide, "center"), wide[:, 2:8])
    assert cropped(wide, "stretch") is wide


class WholeI2I(Readout):
    """The I2I and I2T blocks from the whole softmax, nothing streamed."""

    def measure(self, attention):
        scores = attention.query @ attention.full_key.transpose(-1, -2) * attention.scale
        probs, layout = scores.softmax(-1)[:, :, attention.layout.image_queries].mean(1), attention.layout
        weights = probs[..., layout.image_keys]
        refined = weights / weights.sum(-1, keepdim=True) @ probs[..., layout.text_keys]
        before = scores[:, :, layout.image_queries, layout.text_keys]
        return {"whole": Field(("batch", "row", "col", "token"), refined.unflatten(1, layout.grid)),
                "before": Field(("batch", "head", "row", "col", "token"), before.unflatten(2, layout.grid))}  # fmt: skip


def test_maps_of_images_are_read_without_a_record(random_pipe, monkeypatch):
    from mmdit_probe.probe import probe as probe_module
    from mmdit_probe.segmentation.map_reader import MapReader

    reader = MapReader(random_pipe, I2TMaps("all"), [0, 2], [2, 5], max_sequence_length=0)
    latents = reader.latents([np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)])
    reader.run(latents, reader.sigmas[1], reader.features(("sand", "grass")))
    record = reader.probe.dataset()
    monkeypatch.setattr(probe_module, "to_dataset", None)
    maps = reader.read(latents, ["sand", "grass"])
    assert maps.shape == (2, *record["i2t"].shape[1:])
    np.testing.assert_array_equal(maps[1:], record["i2t"])


@pytest.mark.parametrize("rows", [7, 1000])
def test_refinement_and_scores_agree_with_the_whole_softmax(sd3, inputs, monkeypatch, rows):
    from mmdit_probe.attention import scores as attention

    monkeypatch.setattr(attention, "ROW_CHUNK", rows)
    with Probe(sd3, [RefinedI2T(), WholeI2I()]) as probe:
        sd3(**inputs)
    record = probe.dataset()
    np.testing.assert_allclose(record["i2t"], record["whole"], atol=1e-6)
    for heads in ("mean", "all"):
        with Probe(sd3, [I2TScores(heads), WholeI2I()]) as probe:
            sd3(**inputs)
        record = probe.dataset()
        expected = record["before"] if heads == "all" else record["before"].mean("head")
        np.testing.assert_allclose(record["i2t"], expected, atol=1e-5)


def test_refined_maps_make_other_labels_from_the_same_names(random_pipe, image):
    plain = OpenVocabularySegmenter(random_pipe, 1)(image, CLASSES)
    refined = OpenVocabularySegmenter(random_pipe, 1, SegmentConfig(refine="i2i"))(image, CLASSES)
    assert refined.logits.std((1, 2)).max() < plain.logits.std((1, 2)).max()  # means of means are flatter
    assert refined.logits.shape == plain.logits.shape


def test_readouts_for_the_settings_of_table_5():
    assert isinstance(make_readout("scores-minmax", "mean", "none"), I2TScores)
    maps = scaled(torch.rand(3, 4, 4), "probs-minmax")
    assert maps.amin() == 0
    assert maps.amax() == 1
    with pytest.raises(ValueError, match="normalize must be one of probs"):
        make_readout("softmax", "mean", "none")
    with pytest.raises(ValueError, match="refine i2i works on the mean over heads of probabilities"):
        make_readout("scores", "mean", "i2i")


def test_regions_come_from_the_empty_prompts_tokens(random_pipe, image):
    segmenter = UnsupervisedSegmenter(random_pipe, 1, GroupConfig(threshold=0.02))
    made = segmenter(image)
    features = encode_prompts(random_pipe, [""], 77)
    words = int((features.text.kinds[0] != "absent").sum())
    reader = MapReader(random_pipe, I2TMaps(), [1], [8])
    maps = reader.read(reader.latents([image]), [""])[0, 0, 0][..., :words].movedim(-1, 0)
    expected = segmenters.merge(maps, GroupConfig(threshold=0.02))
    np.testing.assert_allclose(made.logits, expected.numpy(), atol=1e-6)
    assert made.classes[0] == "region 1"
    assert len(UnsupervisedSegmenter(random_pipe, 1, GroupConfig(threshold=9.0))(image).classes) == 1


def test_unknown_variants_are_refused(random_pipe, image):
    with pytest.raises(ValueError, match="variant must be one of released, paper-text"):
        UnsupervisedSegmenter(random_pipe, 1, GroupConfig(variant="other"))(image)


def made_up():
    labels = np.array([[0, 0, 2], [0, 2, 2]], np.uint8)
    logits = np.random.default_rng(0).random((3, 1, 2), np.float32)
    return Segmentation(labels, logits, ("a", "b < c", "d"), np.full((2, 3, 3), 9, np.uint8), {"layer": 9})


def test_files_hold_what_was_found(tmp_path):
    made = made_up()
    files = made.save(tmp_path / "deep", "x")
    assert [file.name for file in files] == [
        "x_labels.png", "x_legend.json", "x_overlay.png", "x_rle.json", "x_maps.nc"]  # fmt: skip
    assert sorted(tmp_path.rglob("*.*")) == sorted(files)
    opened = Image.open(files[0])
    assert opened.mode == "P"
    np.testing.assert_array_equal(np.asarray(opened), made.labels)
    np.testing.assert_array_equal(np.asarray(opened.convert("RGB"))[0, 2], palette(3)[2])
    legend = json.loads(files[1].read_text())
    assert [(item["label"], item["class"], item["share"]) for item in legend] == [
        (0, "a", 0.5), (1, "b < c", 0.0), (2, "d", 0.5)]  # fmt: skip
    assert legend[0]["color"] == "#e69f00"
    assert json.loads(files[3].read_text())["image"] == {"file_name": "x", "height": 2, "width": 3}
    record = load_record(files[4])
    np.testing.assert_array_equal(record["logits"], made.logits)
    assert list(record["class"].values) == list(made.classes)
    assert record.attrs["layer"] == 9


def test_notebooks_show_the_overlay():
    shown = made_up()._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,')
    assert "b &lt; c" in shown
    assert made_up().overlay().shape == (2, 3, 3)


def test_too_many_classes_for_a_palette_file_are_refused(tmp_path):
    many = Segmentation(np.zeros((2, 2)), np.zeros((256, 1, 1)), tuple(map(str, range(256))), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="255 classes, this segmentation has 256"):
        many.save(tmp_path, "x")
    assert not list(tmp_path.iterdir())
