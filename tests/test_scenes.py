import hashlib

import numpy as np
import pytest

from mmdit_probe.datasets.scenes import CLASSES, GROUNDS, scene, scenes
from mmdit_probe.datasets.shapes import COLORS, SHAPES, TYPICAL_COLOR, distance
from mmdit_probe.tiny.tokenizer import WORDS


def test_a_scene_is_a_function_of_split_and_index():
    for split in ("train", "val", "test"):
        a, b = scene(split, 7), scene(split, 7)
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.caption() == b.caption()
    assert not np.array_equal(scene("val", 7).image, scene("test", 7).image)


def test_the_data_have_not_changed():
    """The shipped weights were trained on these images; labels are exact integers on every machine."""
    digest = hashlib.sha256(b"".join(s.labels.tobytes() for s in scenes("train", 20))).hexdigest()
    assert digest[:16] == "731badfdfdfdce1f"


def uncovered(s):
    """Each thing with its signed distance, infinite where a later thing lies over it (corners may touch)."""
    signed = [distance(thing.shape, thing.center, thing.radius, 64) for thing in s.things]
    for i, thing in enumerate(s.things):
        covered = np.any([later < 1 for later in signed[i + 1 :]], axis=0) if signed[i + 1 :] else False
        yield thing, np.where(covered, np.inf, signed[i])


def test_masks_are_where_the_things_are():
    for s in scenes("test", 30):
        for thing, signed in uncovered(s):
            assert (signed < 0).sum() > 100
            assert (s.labels[signed < 0] == CLASSES.index(thing.shape)).all()
        elsewhere = np.unique(s.labels[~np.isin(s.labels, [CLASSES.index(t.shape) for t in s.things])])
        assert {CLASSES[i] for i in elsewhere} == set(s.grounds)


def test_the_lower_ground_is_named_first():
    for s in scenes("test", 30):
        if len(s.grounds) == 2:
            bottom, top = s.labels[-1], s.labels[0]
            stuff = range(len(GROUNDS))
            assert set(bottom[np.isin(bottom, stuff)]) <= {CLASSES.index(s.grounds[0])}
            assert set(top[np.isin(top, stuff)]) <= {CLASSES.index(s.grounds[1])}


def test_a_thing_has_its_color_in_its_middle():
    for s in scenes("test", 20):
        for thing, signed in uncovered(s):
            core = signed < -2.5
            color = np.rint(np.array(COLORS[thing.color]) * 255)
            assert np.abs(s.image[core] - color).max() <= 1


def test_captions_say_what_is_there():
    kinds = {"sentence": 0, "list": 0, "empty": 0}
    for s in scenes("train", 300):
        caption = s.caption()
        if not caption:
            kinds["empty"] += 1
            continue
        assert set(caption.split()) <= set(WORDS)
        kinds["sentence" if caption.startswith("a") or " above " in caption or " under " in caption else "list"] += 1
        for name in s.classes:
            assert name in s.sentence()
            assert name in s.class_list()
    assert 0.05 < kinds["empty"] / 300 < 0.16


def test_variants_of_a_caption_differ():
    captions = {scene("train", 3).caption(variant) for variant in range(8)}
    assert len(captions) > 1


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_fills_its_box_and_no_more(name):
    inside = distance(name, (32, 32), 20, 64) < 0
    rows, cols = np.nonzero(inside)
    assert min(rows.min(), cols.min()) >= 9
    assert max(rows.max(), cols.max()) <= 54
    assert inside.sum() > 0.25 * 40 * 40
    assert TYPICAL_COLOR[name] in COLORS


@pytest.mark.parametrize(
    ("arguments", "message"), [(("holdout", 0), "split must be one of"), (("test", -1), "0 or more")]
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        scene(*arguments)
