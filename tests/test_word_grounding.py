"""What the maps of words say of places, on made-up maps."""

import numpy as np
import pytest

from mmdit_probe.metrics.word_grounding import coherence, selectivity, word_information

CHESS = np.indices((8, 8)).sum(0) % 2


def test_information_is_the_mutual_information_of_place_and_word():
    """The slow twin: sums over positions and words of p(place, word) ln(p(place, word) / p(place) p(word))."""
    maps = np.random.default_rng(0).uniform(0, 0.3, (3, 4, 5))
    joint = (
        np.concatenate([maps, 1 - maps.sum(0, keepdims=True)]).reshape(4, -1) / 20
    )  # the rest of the keys as one word
    expected = 0.0
    for word in range(4):
        for place in range(20):
            expected += joint[word, place] * np.log(joint[word, place] / (joint[word].sum() * joint[:, place].sum()))
    rest = word_information(20 * joint[3].reshape(1, 4, 5))
    assert word_information(maps) + rest == pytest.approx(expected)


def test_information_needs_both_mass_and_places():
    apart = np.stack([CHESS, 1 - CHESS]).astype(float)
    assert word_information(apart) == pytest.approx(np.log(2))
    assert word_information(0.1 * apart) == pytest.approx(0.1 * np.log(2))
    assert word_information(np.full((3, 4, 4), 0.2)) == pytest.approx(0, abs=1e-12)
    assert word_information(np.zeros((2, 4, 4))) == 0
    assert word_information(0.5 * CHESS[None]) == pytest.approx(0.25 * np.log(2))  # one word alone


def test_coherence_of_regions_noise_and_a_chessboard():
    halves = np.zeros((1, 8, 8))
    halves[:, :, 4:] = 1
    noise = np.random.default_rng(0).normal(size=(50, 8, 8))
    assert coherence(halves) > 0.8
    assert abs(coherence(noise)) < 0.1
    assert coherence(CHESS[None].astype(float)) == pytest.approx(-1)


def test_coherence_knows_no_unit():
    maps = np.random.default_rng(0).uniform(size=(3, 6, 5))
    assert coherence(7 * maps + 3) == pytest.approx(coherence(maps))


def test_coherence_equals_morans_i():
    maps = np.random.default_rng(0).uniform(size=(1, 4, 5))
    z = maps[0] - maps[0].mean()
    pairs = [z[i, j] * z[i + 1, j] for i in range(3) for j in range(5)]
    pairs += [z[i, j] * z[i, j + 1] for i in range(4) for j in range(4)]
    assert coherence(maps) == pytest.approx(np.mean(pairs) / (z**2).mean())


def test_certainty_is_one_for_words_apart_and_zero_for_words_together():
    apart = np.stack([CHESS, 1 - CHESS]).astype(float)
    assert selectivity(apart) == pytest.approx(1, abs=1e-6)
    assert selectivity(np.ones((3, 4, 4))) == pytest.approx(0, abs=1e-6)
    assert selectivity(apart * np.array([1.0, 50.0])[:, None, None]) == pytest.approx(1, abs=1e-6)
    assert selectivity(np.ones((1, 4, 4))) == 0
