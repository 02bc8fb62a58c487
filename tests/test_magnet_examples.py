"""What MAGNET learns from: masks on the token grid, the training sets in their released forms, captions, the order."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmdit_probe.datasets.coco_rle import encode_mask
from mmdit_probe.datasets.scenes import CLASSES, scene
from mmdit_probe.magnet.captions import read_captions
from mmdit_probe.magnet.examples import MaskedImage, first_sentences, largest, masks_of, on_grid, prepared
from mmdit_probe.magnet.sampler import Order, noise_at, positions_of
from mmdit_probe.magnet.training_sets import open_training_set


def test_masks_of_a_label_map_are_its_classes_in_order():
    labels = np.array([[3, 3, 255], [0, 3, 255]], np.uint8)
    masks, names = masks_of(labels, ("a", "b", "c", "d"))
    assert names == ("a", "d")
    np.testing.assert_array_equal(masks, [labels == 0, labels == 3])
    empty, none = masks_of(np.full((2, 2), 255, np.uint8), ("a",))
    assert empty.shape == (0, 2, 2)
    assert none == ()


@given(st.integers(0, 50), st.sampled_from([(4, 4), (3, 5), (5, 2)]))
def test_a_grid_point_holds_the_share_of_its_area(seed, grid):
    masks = np.random.default_rng(seed).random((2, 4 * grid[0], 3 * grid[1])) > 0.5
    shares = on_grid(masks, grid)
    for row in range(grid[0]):
        for col in range(grid[1]):
            block = masks[:, 4 * row : 4 * row + 4, 3 * col : 3 * col + 3]
            np.testing.assert_allclose(shares[:, row, col], block.mean((1, 2)), atol=1e-6)


def test_masks_that_partition_the_image_sum_to_one_at_every_grid_point():
    drawn = scene("train", 3)
    masks, _ = masks_of(drawn.labels, CLASSES)
    torch.testing.assert_close(on_grid(masks, (8, 8)).sum(0), torch.ones(8, 8))


def test_small_and_empty_masks_are_left_out_and_the_largest_kept_in_order():
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :5], masks[1, 0, 0], masks[3, :, :8] = True, True, True
    assert largest(masks, 0.0, 9) == [0, 1, 3]
    assert largest(masks, 0.05, 9) == [0, 3]
    assert largest(masks, 0.0, 2) == [0, 3]
    assert largest(masks[:0], 0.0, 2) == []


def test_a_wide_image_is_cut_to_its_middle_with_its_masks():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    masks = np.zeros((2, 4, 8), bool)
    masks[0, :, :2], masks[1, :, 2:4] = True, True  # the first is outside the square
    example = prepared(MaskedImage(image, masks, ("a", "b"), "x"), 8, (2, 2))
    assert example.pixels.shape == (8, 8, 3)
    assert (example.pixels == 200).all()
    assert example.names == ("b",)
    torch.testing.assert_close(example.masks, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    stretched = prepared(MaskedImage(image, masks, ("a", "b")), 8, (2, 4), crop="stretch")
    assert stretched.names == ("a", "b")


@pytest.mark.parametrize(
    ("count", "expected"), [(None, "One.  Two! Three?"), (2, "One. Two!"), (9, "One. Two! Three?"), (1, "One.")]
)
def test_sentences(count, expected):
    assert first_sentences("One.  Two! Three?", count) == expected


def test_scenes_bring_masks_names_and_captions():
    data = open_training_set("scenes")
    read, drawn = data.read(7), scene("train", 7)
    assert read.names == drawn.classes
    assert read.caption == data.read(7).caption != ""
    assert (data.named, data.captioned) == (True, True)
    np.testing.assert_array_equal(read.image, drawn.image)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def coco(tmp_path):
    """Two images: person (value 0) and grass (value 123), and a bear (value 22, class 21) alone."""
    for number, values in ((1, [[0, 123], [0, 255]]), (2, [[22, 22], [22, 22]])):
        save(tmp_path / "train2017" / f"{number:012d}.jpg", np.full((2, 2, 3), 99, np.uint8))
        save(tmp_path / "stuffthingmaps" / "train2017" / f"{number:012d}.png", np.array(values, np.uint8))
    return tmp_path


def test_coco(coco):
    data = open_training_set(f"coco:{coco}")
    assert (data.count, data.named, data.captioned) == (2, True, False)
    assert data.read(0).names == ("person", "grass")
    np.testing.assert_array_equal(data.read(0).masks, [[[1, 0], [1, 0]], [[0, 1], [0, 0]]])
    assert data.read(1).names == ("bear",)


def test_cocos_captions_are_found_and_the_first_of_each_image_is_taken(coco):
    images = [{"id": 7, "file_name": "000000000001.jpg"}, {"id": 9, "file_name": "000000000002.jpg"}]
    texts = [(9, "a bear"), (7, "first "), (7, "second")]
    content = {"images": images, "annotations": [{"image_id": i, "caption": text} for i, text in texts]}
    (coco / "annotations").mkdir()
    (coco / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    data = open_training_set(f"coco:{coco}")
    assert data.captioned
    assert [data.read(n).caption for n in (0, 1)] == ["first", "a bear"]


@pytest.fixture
def sa1b(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:5] = True
    save(tmp_path / "sa_1.jpg", np.full((6, 8, 3), 99, np.uint8))
    annotations = [{"segmentation": encode_mask(mask), "area": 9}, {"segmentation": encode_mask(~mask), "area": 39}]
    (tmp_path / "sa_1.json").write_text(json.dumps({"image": {}, "annotations": annotations}))
    (tmp_path / "captions.json").write_text('{"sa_1.jpg": "A square. More. Still more."}')
    return tmp_path, mask


def test_sa1b(sa1b):
    folder, mask = sa1b
    data = open_training_set(f"sa1b:{folder}")
    assert (data.count, data.named) == (1, False)
    read = data.read(0)
    assert read.names is None
    assert read.caption == "A square. More. Still more."
    np.testing.assert_array_equal(read.masks, [mask, ~mask])


def test_a_folder_of_ones_own(tmp_path):
    save(tmp_path / "images" / "x.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "labels" / "x.png", np.array([[0, 1], [1, 1]], np.uint8))
    (tmp_path / "classes.json").write_text('["road", "sky"]')
    assert open_training_set(f"folder:{tmp_path}").read(0).names == ("road", "sky")


def write(path, text):
    path.write_text(text)
    return path


def test_what_does_not_fit_is_explained(tmp_path, coco, sa1b):
    folder, _ = sa1b
    captions = write(tmp_path / "some.json", '{"000000000001.jpg": "a"}')
    cases = [
        ("tables", None, "--data must be scenes, coco:ROOT"),
        ("coco", None, "--data must be scenes, coco:ROOT"),
        ("scenes:x", None, "--data must be scenes, coco:ROOT"),
        ("sa1b:/no/such", None, "there is no folder /no/such"),
        ("scenes", captions, "scenes have captions of their own"),
        (f"coco:{coco}", captions, r"has none for 000000000002 \(1 of 2 images have none\)"),
        (f"coco:{coco}", write(tmp_path / "list.json", "[1, 2]"), "must be COCO's captions JSON, or an object"),
        (f"coco:{coco}", write(tmp_path / "broken.json", "{"), "must be COCO's captions JSON, or an object"),
    ]
    for data, file, message in cases:
        with pytest.raises(ValueError, match=message):
            open_training_set(data, file)
    (folder / "captions.json").unlink()
    with pytest.raises(
        ValueError, match=r"no captions; give --captions FILE, or write one with `mmdit-probe magnet caption"
    ):
        open_training_set(f"sa1b:{folder}")
    write(folder / "captions.json", '{"sa_1": "x"}')
    write(folder / "sa_1.json", '{"annotations": [{"area": 3}]}')
    with pytest.raises(ValueError, match=r"sa_1.json is not an SA-1B annotation file"):
        open_training_set(f"sa1b:{folder}").read(0)
    save(folder / "sa_1.jpg", np.zeros((5, 8, 3), np.uint8))
    mask = encode_mask(np.ones((6, 8), bool))
    write(folder / "sa_1.json", json.dumps({"annotations": [{"segmentation": mask}]}))
    with pytest.raises(
        ValueError, match=r"sa_1\.jpg: image and label map must have the same size, got \(5, 8\) and \(6, 8\)"
    ):
        open_training_set(f"sa1b:{folder}").read(0)


def test_captions_are_read_from_both_forms(tmp_path):
    assert read_captions(write(tmp_path / "a.json", '{"x.jpg": " two  words "}')) == {"x": "two words"}


def test_an_epoch_shows_every_image_once():
    order = Order(7, seed=3)
    epochs = [[order[epoch * 7 + place] for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [Order(7, 3)[place] for place in range(7)] == epochs[0]
    assert [Order(7, 4)[place] for place in range(7)] != epochs[0]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_processes_and_accumulated_passes_share_the_positions_without_overlap(batch, accumulate, processes):
    seen = [
        position
        for step in range(3)
        for micro in range(accumulate)
        for process in range(processes)
        for position in positions_of(step, micro, batch, accumulate, process, processes)
    ]
    assert seen == list(range(3 * batch * accumulate * processes))


def test_noise_is_a_function_of_seed_and_position():
    first, sigma = noise_at(5, (2, 3), 0, 0.0, 0.5, 3.0)
    again, same = noise_at(5, (2, 3), 0, 0.0, 0.5, 3.0)
    assert torch.equal(first, again)
    assert sigma == same
    for other in (noise_at(6, (2, 3), 0, 0.0, 0.5, 3.0), noise_at(5, (2, 3), 1, 0.0, 0.5, 3.0)):
        assert not torch.equal(first, other[0])


def test_noise_levels_are_logit_normal_and_shifted():
    """The median of logit-normal(0, s) is 1/2, which a shift of 3 takes to 3/4; the spread is s before it."""
    plain = np.array([noise_at(p, (1,), 0, 0.0, 0.5, 1.0)[1] for p in range(600)])
    shifted = np.array([noise_at(p, (1,), 0, 0.0, 0.5, 3.0)[1] for p in range(600)])
    np.testing.assert_allclose(shifted, 3 * plain / (1 + 2 * plain))
    logits = np.log(plain / (1 - plain))
    assert abs(logits.mean()) < 0.08
    assert 0.45 < logits.std() < 0.55


def test_a_set_is_told_from_another_of_its_name_by_its_files_and_captions(tmp_path):
    from PIL import Image

    from mmdit_probe.magnet.training_sets import open_training_set

    def made(root, names=("a", "b"), size=8, classes='["sand", "star"]'):
        for kind in ("images", "labels"):
            (tmp_path / root / kind).mkdir(parents=True)
            for name in names:
                Image.fromarray(np.zeros((size, size), np.uint8)).save(tmp_path / root / kind / f"{name}.png")
        (tmp_path / root / "classes.json").write_text(classes)
        return open_training_set(f"folder:{tmp_path / root}").digest

    one = made("one")
    assert one == made("copy")
    others = [made("names", ("a", "c")), made("sizes", size=90), made("classes", classes='["sand", "lava"]')]
    assert len({one, *others}) == 4
    (tmp_path / "one" / "captions.json").write_text('{"a": "sand", "b": "sand"}')
    assert open_training_set(f"folder:{tmp_path / 'one'}").digest != one
