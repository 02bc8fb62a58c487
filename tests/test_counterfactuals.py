"""Pairs of scenes that differ in one fact: nothing else differs, in the image, the labels or the sentence."""

import numpy as np
import pytest

from mmdit_probe.datasets.counterfactuals import FACTS, counterfactual, counterfactuals
from mmdit_probe.datasets.scenes import CLASSES, scene
from mmdit_probe.datasets.shapes import distance

COUNT = 40


def near(*things, margin=2.0):
    """Where one of these things is, or its edge is blended in."""
    signed = [distance(thing.shape, thing.center, thing.radius, 64) for thing in things]
    return np.any([each < margin for each in signed], axis=0)


@pytest.mark.parametrize("fact", FACTS)
def test_a_pair_begins_with_the_scene_and_is_the_same_every_time(fact):
    for pair in counterfactuals(fact, "val", 5):
        again = counterfactual(fact, "val", pair.before.index)
        np.testing.assert_array_equal(pair.before.image, scene("val", pair.before.index).image)
        np.testing.assert_array_equal(pair.after.image, again.after.image)
        assert pair.after.things == again.after.things


@pytest.mark.parametrize("fact", FACTS)
def test_the_sentences_differ_in_the_one_word(fact):
    for pair in counterfactuals(fact, "test", COUNT):
        before, after = (prompt.replace("an ", "a ") for prompt in pair.prompts)
        assert before != after
        assert before.replace(pair.was, pair.becomes, 1) == after


@pytest.mark.parametrize("fact", FACTS)
def test_images_and_labels_differ_only_where_the_fact_is(fact):
    for pair in counterfactuals(fact, "test", COUNT):
        before, after = pair.before, pair.after
        if fact == "ground":
            there = before.labels == CLASSES.index(pair.was)
            there |= near(*before.things)  # edges are blended with the ground
        else:
            count = 2 if fact == "place" else 1
            there = near(*before.things[:count], *after.things[:count])
        assert (before.labels != after.labels)[there].any() or fact == "color"
        assert not (before.labels != after.labels)[~there].any()
        assert not (before.image != after.image)[~there].any()
        assert (before.image != after.image)[there].any()


def test_things_keep_all_but_the_fact():
    for pair in counterfactuals("color", "test", COUNT):
        (was, *others), (now, *rest) = pair.before.things, pair.after.things
        assert others == rest
        assert (was.shape, was.center, was.radius) == (now.shape, now.center, now.radius)
        assert (pair.before.labels == pair.after.labels).all()
    for pair in counterfactuals("place", "test", COUNT):
        (first, second), (moved, other) = pair.before.things, pair.after.things
        assert (moved.shape, moved.color, moved.center) == (first.shape, first.color, second.center)
        assert (other.shape, other.color, other.center) == (second.shape, second.color, first.center)
        assert pair.after.things[0].relation_to(pair.after.things[1]) == pair.becomes != pair.was


def test_new_words_are_not_in_the_scene_already():
    for pair in counterfactuals("shape", "test", COUNT):
        assert pair.becomes not in [thing.shape for thing in pair.before.things]
    for pair in counterfactuals("ground", "test", COUNT):
        assert pair.becomes not in pair.before.grounds


def test_scenes_that_lack_the_fact_are_passed_over():
    found = [counterfactual("place", "test", index) for index in range(30)]
    assert [pair is not None for pair in found] == [len(scene("test", index).things) == 2 for index in range(30)]
    with pytest.raises(ValueError, match="fact must be one of color, shape, ground, place, got 'size'"):
        counterfactual("size", "test", 0)
