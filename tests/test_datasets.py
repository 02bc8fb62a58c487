"""Readers of labeled data sets on miniature folders in the released formats."""

import json

import numpy as np
import pytest
from PIL import Image

from mmdit_probe.datasets import registry
from mmdit_probe.datasets.coco_rle import decode_mask, encode_mask
from mmdit_probe.datasets.labeled import LabeledImages, labeling, read_values
from mmdit_probe.datasets.registry import DATASETS, dataset_name, held_out_scenes, open_dataset


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "grey").save(path)


def values(path, numbers, kind=np.uint8, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(numbers, kind))
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


VOC = [[0, 1, 20, 255], [15, 15, 0, 0], [5, 5, 5, 5]]


def make_voc(root):
    for stem in ("2007_000033", "2007_000042"):
        image(root / "JPEGImages" / f"{stem}.jpg")
        values(root / "SegmentationClass" / f"{stem}.png", VOC, palette=True)
    image(root / "JPEGImages" / "2007_000001.jpg")  # of no list
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000042\n2007_000033\n")


@pytest.mark.parametrize("place", ["", "VOC2012", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize(("name", "background", "count"), [("voc20", 255, 20), ("voc21", 20, 21)])
def test_voc(tmp_path, place, name, background, count):
    make_voc(tmp_path / place)
    found = open_dataset(name, tmp_path)
    assert [sample.name for sample in found.samples] == ["2007_000042", "2007_000033"]
    assert len(found.classes) == count
    assert found.classes[:2] == ("aeroplane", "bicycle")
    b = background
    np.testing.assert_array_equal(found.samples[0].read(), [[b, 0, 19, 255], [14, 14, b, b], [4, 4, 4, 4]])
    assert found.samples[0].image.is_file()


def compressed(mask):
    """COCO's text of a mask, as its C code writes it."""
    text, counts = "", encode_mask(mask)["counts"]
    for i, count in enumerate(counts):
        number = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr((bits | (32 if more else 0)) + 48)
    return {"size": list(mask.shape), "counts": text}


@pytest.mark.parametrize("seed", range(6))
def test_compressed_run_lengths_come_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 30)) < rng.choice([0.01, 0.1, 0.5, 0.97])
    np.testing.assert_array_equal(decode_mask(compressed(mask)), mask)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_a_known_text_of_run_lengths():
    mask = np.zeros((5, 5), bool)
    mask[1:3, 1:4] = True
    assert compressed(mask)["counts"] == "6230004"  # counts 6 2 3 2 3 2 7
    np.testing.assert_array_equal(decode_mask({"size": [5, 5], "counts": "6230004"}), mask)


def make_context(root, phase="val"):
    image(root / "JPEGImages" / "2008_000002.jpg")
    grass, other = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    grass[:2], other[1, 2:] = True, True
    annotations = [
        {"image_id": 2008000002, "category_id": 187, "segmentation": compressed(grass)},
        {"image_id": 2008000002, "category_id": 2, "segmentation": compressed(other)},
        {"image_id": 2008000002, "category_id": 400, "segmentation": compressed(np.eye(3, 4, dtype=bool))},
    ]
    images = [
        {"file_name": "2008_000002.jpg", "image_id": 2008000002, "phase": phase, "height": 3, "width": 4},
        {"file_name": "2008_000003.jpg", "image_id": 2008000003, "phase": "train", "height": 3, "width": 4},
    ]
    (root / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": annotations}))


def test_context_from_the_merged_annotations(tmp_path):
    make_context(tmp_path / "VOC2010")
    (sample,) = open_dataset("context", tmp_path).samples
    assert open_dataset("context", tmp_path).classes[28] == "grass"
    np.testing.assert_array_equal(sample.read(), [[255, 28, 28, 28], [28, 255, 0, 0], [255, 255, 255, 255]])


def test_context_from_label_maps(tmp_path):
    image(tmp_path / "JPEGImages" / "a.jpg")
    values(tmp_path / "SegmentationClassContext" / "a.png", [[0, 1, 59, 29]])
    with pytest.raises(ValueError, match=r"neither trainval_merged\.json nor ImageSets"):
        open_dataset("context", tmp_path)
    (tmp_path / "ImageSets" / "SegmentationContext").mkdir(parents=True)
    (tmp_path / "ImageSets" / "SegmentationContext" / "val.txt").write_text("a\n")
    np.testing.assert_array_equal(open_dataset("context", tmp_path).samples[0].read(), [[255, 0, 58, 28]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco-object", [[0, 79, 255, 255]]),
        ("coco-object-background", [[1, 80, 0, 0]]),
        ("coco-stuff-27", [[9, 4, 24, 255]]),
    ],
)
@pytest.mark.parametrize("place", ["stuffthingmaps", "annotations"])
def test_coco(tmp_path, name, expected, place):
    image(tmp_path / "images" / "val2017" / "000000000139.jpg")
    values(tmp_path / place / "val2017" / "000000000139.png", [[0, 89, 181, 255]])
    (sample,) = open_dataset(name, tmp_path).samples
    np.testing.assert_array_equal(sample.read(), expected)


@pytest.mark.parametrize(("kind", "none"), [(np.uint8, 0), (np.uint16, 65535)])
def test_ade20k_of_8_and_16_bits(tmp_path, kind, none):
    root = tmp_path / "ADEChallengeData2016"
    image(root / "images" / "validation" / "ADE_val_00000001.jpg")
    values(root / "annotations" / "validation" / "ADE_val_00000001.png", [[0, 1, 150, none]], kind)
    (sample,) = open_dataset("ade20k", tmp_path).samples
    np.testing.assert_array_equal(sample.read(), [[255, 0, 149, 255]])
    values(root / "annotations" / "validation" / "ADE_val_00000001.png", [[151]], kind)
    with pytest.raises(ValueError, match=r"00000001\.png holds the value 151, which is not a class"):
        sample.read()


def test_cityscapes(tmp_path):
    for city in ("munster", "lindau"):
        stem = f"{city}_000000_000019"
        image(tmp_path / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png")
        labels = tmp_path / "gtFine" / "val" / city
        values(labels / f"{stem}_gtFine_labelIds.png", [[7, 33, 0, 1], [26, 29, 30, 34]])
        image(labels / f"{stem}_gtFine_color.png")
    first, second = open_dataset("cityscapes", tmp_path).samples
    assert (first.name, second.name) == ("lindau_000000_000019", "munster_000000_000019")
    np.testing.assert_array_equal(first.read(), [[0, 18, 255, 255], [13, 255, 255, 255]])
    more = open_dataset("cityscapes-27", tmp_path)
    np.testing.assert_array_equal(more.samples[0].read(), [[0, 26, 255, 255], [19, 22, 23, 255]])
    assert [more.classes[number] for number in (0, 26, 19, 22, 23)] == ["road", "bicycle", "car", "caravan", "trailer"]


@pytest.mark.parametrize("classes", [["sky", "sea"], {"0": "sky", "1": "sea"}])
def test_a_folder_of_ones_own(tmp_path, classes):
    image(tmp_path / "images" / "b.jpg")
    image(tmp_path / "images" / "a.png")
    for stem in "ab":
        values(tmp_path / "labels" / f"{stem}.png", [[0, 1, 255]])
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    found = open_dataset("folder", tmp_path)
    assert found.classes == ("sky", "sea")
    assert [sample.name for sample in found.samples] == ["a", "b"]
    np.testing.assert_array_equal(found.samples[1].read(), [[0, 1, 255]])
    assert len(open_dataset("folder", tmp_path, limit=1).samples) == 1


@pytest.mark.parametrize("content", ["[]", '["a", ""]', "{", '{"x": "sky"}', "3", json.dumps(["a"] * 256)])
def test_bad_class_files_are_explained(tmp_path, content):
    image(tmp_path / "images" / "a.png")
    values(tmp_path / "labels" / "a.png", [[0]])
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match="must be a list of class names"):
        open_dataset("folder", tmp_path)


def test_missing_files_are_named(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_000033.png").unlink()
    with pytest.raises(ValueError, match=r"2007_000033\.png is missing; every image needs its label map"):
        open_dataset("voc20", tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"val\.txt is missing; it lists the images"):
        open_dataset("voc20", tmp_path)
    make_context(tmp_path / "c")
    (tmp_path / "c" / "JPEGImages" / "2008_000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"2008_000002\.jpg is missing; trainval_merged\.json lists it"):
        open_dataset("context", tmp_path / "c")
    (tmp_path / "c" / "trainval_merged.json").write_text('{"images": [{}]}')
    with pytest.raises(ValueError, match="not a Pascal-in-Detail file"):
        open_dataset("context", tmp_path / "c")


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "scenes"])
def test_a_wrong_root_says_what_was_looked_for(tmp_path, name):
    with pytest.raises(ValueError, match="holds none of"):
        open_dataset(name, tmp_path)
    with pytest.raises(ValueError, match="give its folder by --root"):
        open_dataset(name)


def test_scenes_are_the_held_out_ones():
    from mmdit_probe.datasets.scenes import CLASSES, scene

    found = open_dataset("scenes", limit=3)
    assert found.classes == CLASSES
    np.testing.assert_array_equal(found.samples[2].image, scene("test", 2).image)
    np.testing.assert_array_equal(found.samples[2].read(), scene("test", 2).labels)
    with pytest.raises(ValueError, match="no image to evaluate"):
        open_dataset("scenes", limit=0)
    assert dataset_name("PC59") == "context"
    assert dataset_name("COCO-Object") == "coco-object"
    with pytest.raises(ValueError, match="must be one of scenes, voc20"):
        open_dataset("imagenet")


def make_folder(root):
    for stem in "ab":
        image(root / "images" / f"{stem}.png")
        values(root / "labels" / f"{stem}.png", [[0, 1, 255]])
    (root / "classes.json").write_text('["sky", "sea"]')


def change_image(root):
    Image.new("RGB", (4, 3), "red").save(root / "images" / "b.png")


def change_labels(root):
    values(root / "labels" / "b.png", [[1, 0, 255]])


def change_classes(root):
    (root / "classes.json").write_text('["sky", "lake"]')


def change_values(root):
    (root / "classes.json").write_text('{"1": "sky", "0": "sea"}')


def change_names(root):
    for kind in ("images", "labels"):
        (root / kind / "b.png").rename(root / kind / "c.png")


CHANGES = [change_image, change_labels, change_classes, change_values, change_names]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_digest_tells_data_apart_wherever_they_lie(tmp_path, change):
    for root in ("a", "moved/b"):
        make_folder(tmp_path / root)
    plain = open_dataset("folder", tmp_path / "a").digest
    assert open_dataset("folder", tmp_path / "moved" / "b").digest == plain
    change(tmp_path / "a")
    assert open_dataset("folder", tmp_path / "a").digest != plain
    first = open_dataset("folder", tmp_path / "moved" / "b", 1).digest
    assert first != plain
    if change in (change_image, change_labels, change_names):
        assert open_dataset("folder", tmp_path / "a", 1).digest == first


def test_masks_in_annotations_are_digested_too(tmp_path):
    make_context(tmp_path)
    plain = open_dataset("context", tmp_path).digest
    merged = tmp_path / "trainval_merged.json"
    merged.write_text(merged.read_text().replace('"category_id": 187', '"category_id": 2'))
    assert open_dataset("context", tmp_path).digest != plain


def test_images_in_memory_are_digested_and_scenes_are_not_drawn(monkeypatch):
    few, more = (open_dataset("scenes", limit=limit) for limit in (2, 3))
    own = LabeledImages("scenes", few.classes, list(few.samples))
    other = LabeledImages("scenes", few.classes, [few.samples[0], few.samples[0]])
    monkeypatch.setattr(registry, "scene", None)
    assert len({few.digest, more.digest, own.digest, other.digest, held_out_scenes(2, "val").digest}) == 5


def test_label_files_must_hold_numbers(tmp_path):
    image(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="must have one channel of whole numbers"):
        read_values(tmp_path / "rgb.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"label map: .*empty.png is empty"):
        read_values(tmp_path / "empty.png")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("context", 59),
        ("coco-object", 80),
        ("coco-stuff-27", 27),
        ("ade20k", 150),
        ("cityscapes", 19),
        ("cityscapes-27", 27),
    ],
)
def test_every_class_has_a_value(name, count):
    known = labeling(name)
    assert len(set(known.classes)) == count
    assert {number for _, number in known.values} == set(range(count))
