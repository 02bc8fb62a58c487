"""The greedy merge and the matched scores: the released code's numbers, slow twins, and laws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from mmdit_probe.metrics.background import background_metrics, merge_background
from mmdit_probe.metrics.matching import from_counts, matched_metrics, matched_metrics_free
from mmdit_probe.segmentation import merge_by_kl, region_maps, scale_pixels, symmetric_kl

GOLDEN = np.load(Path(__file__).parent / "golden" / "seg4diff_official.npz")
label_maps = arrays(np.uint8, (2, 4, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))
region_numbers = arrays(np.uint8, (2, 4, 5), elements=st.integers(0, 5))


def test_symmetric_kl_is_the_released_one():
    maps = torch.from_numpy(GOLDEN["kl_prob"])
    np.testing.assert_allclose(symmetric_kl(maps[0], maps).numpy(), GOLDEN["kl_sym_0_to_all"], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.005, 0.01, 0.02, 0.035, 0.1])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_merge_is_the_released_one(threshold, kind):
    merged = merge_by_kl(kind(GOLDEN["merge_in"]), threshold)
    assert isinstance(merged, type(kind(GOLDEN["merge_in"])))
    np.testing.assert_allclose(np.asarray(merged), GOLDEN[f"merge_{threshold}"], atol=1e-6)


def slow_merge(maps, threshold, reuse):
    """The same, pair by pair and pixel by pixel in Python's own numbers."""
    soft = [np.exp(m - m.max()) / np.exp(m - m.max()).sum() for m in maps.astype(float)]
    matched, proposals = set(), []
    for i, anchor in enumerate(soft):
        if i in matched:
            continue
        near = []
        for j, other in enumerate(soft):
            forth = sum(a * np.log(a / b) for a, b in zip(anchor.flat, other.flat, strict=True))
            back = sum(b * np.log(b / a) for a, b in zip(anchor.flat, other.flat, strict=True))
            if (forth + back) / 2 < threshold:
                near.append(j)
        proposals.append(np.mean([soft[j] for j in near if reuse or j not in matched], 0))
        matched |= set(near)
    return np.array(proposals)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_merge_agrees_with_its_slow_twin(seed, reuse):
    maps = np.random.default_rng(seed).normal(0, 0.5, (9, 3, 4))
    maps[4:] = maps[4:] * 0.1 + maps[:5]
    for threshold in (0.02, 0.1, 0.3):
        np.testing.assert_allclose(
            merge_by_kl(maps, threshold, reuse=reuse), slow_merge(maps, threshold, reuse), rtol=1e-9
        )


def test_identical_maps_merge_into_one_and_far_ones_stay():
    one = torch.randn(4, 5)
    merged = merge_by_kl(one.expand(7, 4, 5), 1e-6)
    torch.testing.assert_close(merged, one.flatten().softmax(0).view(1, 4, 5))
    peaks = 20 * torch.eye(6).view(6, 2, 3)
    assert len(merge_by_kl(peaks, 1.0)) == 6


def test_proposals_are_distributions_and_without_reuse_keep_the_whole_mass():
    maps = torch.randn(12, 4, 4)
    for reuse in (True, False):
        merged = merge_by_kl(maps, 0.7, reuse=reuse)
        assert 1 < len(merged) < 12
        torch.testing.assert_close(merged.sum((1, 2)), torch.ones(len(merged)))


def test_reuse_is_what_tells_the_two_merges_apart():
    chain = torch.linspace(0, 3, 7)[:, None, None] * torch.tensor([[0.0, 1.0]])
    assert not torch.equal(merge_by_kl(chain, 0.3), merge_by_kl(chain, 0.3, reuse=False))


def test_pixels_are_scaled_by_their_own_range():
    scaled = scale_pixels(torch.rand(5, 3, 3))
    assert (scaled.amin(0) == 0).all()
    np.testing.assert_allclose(scaled.amax(0), 1, atol=1e-4)
    faint = torch.rand(5, 3, 3) * 1e-6  # no larger than what the released code adds to the range
    assert (scale_pixels(faint).amax(0) < 0.51).all()
    expected = (faint - faint.min(0).values) / (faint.max(0).values - faint.min(0).values + 1e-6)
    torch.testing.assert_close(scale_pixels(faint), expected)
    assert (scale_pixels(torch.full((5, 3, 3), 0.2)) == 0).all()


def test_variants_differ_as_said():
    maps = torch.rand(6, 4, 4) * torch.rand(6, 1, 1)
    torch.testing.assert_close(region_maps(maps, 0.1), merge_by_kl(scale_pixels(maps), 0.1))
    torch.testing.assert_close(region_maps(maps, 0.1, min_max=False), merge_by_kl(maps, 0.1))
    alone = region_maps(maps, 1e-9, "paper-text")
    torch.testing.assert_close(alone, maps / maps.sum((1, 2), keepdim=True))
    torch.testing.assert_close(alone, region_maps(maps * 0.01, 1e-9, "paper-text"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merge_by_kl(np.zeros((0, 3, 3)), 0.1), "at least one token"),
        (lambda: merge_by_kl(np.zeros((3, 3)), 0.1), "maps must be"),
        (lambda: merge_by_kl(np.zeros((2, 3, 3)), 0.0), "above 0, got 0.0"),
        (lambda: merge_by_kl(np.zeros((2, 3, 3)), float("nan")), "above 0, got nan"),
    ],
)
def test_bad_maps_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_matched_scores_are_the_released_ones(kind):
    scores = matched_metrics(kind(GOLDEN["hung_label"]), kind(GOLDEN["hung_pred"]), 9)
    for ours, theirs in zip(scores, ("tp", "fp", "fn", "all", "miou", "acc"), strict=True):
        np.testing.assert_allclose(ours, GOLDEN[f"hung_{theirs}"], atol=1e-6)


def slow_hits(labels, predictions, n_classes, ignore=255):
    """Most pixels that a one-to-one pairing can match, by trying every pairing, image by image."""
    from itertools import permutations

    hits = 0
    for truth, guess in zip(labels, predictions, strict=True):
        regions = [*range(6), *[-1] * n_classes]
        table = [[int(((truth == c) & (guess == r)).sum()) for r in regions] for c in range(n_classes)]
        hits += max(sum(table[c][r] for c, r in enumerate(chosen)) for chosen in permutations(range(6), n_classes))
    return hits


@given(label_maps, region_numbers)
def test_matching_is_the_best_of_all_pairings(labels, predictions):
    if (labels == 255).all():
        return
    best = slow_hits(labels, predictions, 4)
    for scores in (matched_metrics(labels, predictions, 4), matched_metrics_free(labels, predictions, 4)):
        assert scores.tp.sum() == best
        assert scores.total == (labels != 255).sum()
        assert scores.accuracy == pytest.approx(best / scores.total)
        np.testing.assert_array_equal(scores.tp + scores.fn, [(labels == c).sum() for c in range(4)])


@given(label_maps, region_numbers, st.permutations(range(4)), st.permutations(range(6)))
def test_the_free_score_does_not_depend_on_any_numbering(labels, predictions, classes, regions):
    plain = matched_metrics_free(labels, predictions, 4)
    renamed = np.array([*classes, *[255] * 252], np.uint8)[labels]
    again = matched_metrics_free(renamed, np.array(regions, np.uint8)[predictions], 4)
    for one, other in zip(plain[:3], again[:3], strict=True):
        np.testing.assert_array_equal(one, other[list(classes)])


def test_the_papers_score_depends_on_the_numbering():
    labels, predictions = np.zeros((1, 2, 4), int), np.array([[[0, 0, 0, 0], [1, 1, 1, 1]]])
    labels[0, 1, 0] = 3
    labels[0, 0] = 255
    predictions[0, 1, 1] = 2
    swapped = np.where(labels == 3, 1, labels)
    assert matched_metrics(labels, predictions, 4).total == matched_metrics(swapped, predictions, 4).total
    left_over = matched_metrics(np.zeros((1, 1, 4), int), np.array([[[0, 0, 0, 1]]]), 3)
    np.testing.assert_array_equal(left_over.fp, [0, 1, 0])  # class 1 is nowhere in the image
    np.testing.assert_array_equal(matched_metrics_free(np.zeros((1, 1, 4), int), np.array([[[0, 0, 0, 1]]]), 3).fp, 0)


def test_numbers_without_a_pixel_take_part_in_the_papers_score():
    """Ignored pixels' regions and unused numbers leave places for left-over regions, as in the released table."""
    labels, predictions = np.array([[0, 0, 1, 1, 255]]), np.array([[2, 2, 2, 0, 0]])
    plain = matched_metrics(labels, predictions, 2)
    np.testing.assert_array_equal([plain.tp, plain.fp, plain.fn], [[2, 1], [1, 0], [0, 1]])
    labels, predictions = np.array([[1, 1, 1, 255]]), np.array([[4, 4, 3, 6]])
    found = matched_metrics(labels, predictions, 3)
    table = np.zeros((3, 7))  # every number up to the ignored pixel's 6
    table[1, 4], table[1, 3] = 2, 1
    rows, columns = linear_sum_assignment(table, maximize=True)
    np.testing.assert_array_equal(found.fp, table[:, columns].sum(0) - np.diag(table[:, columns]))
    np.testing.assert_array_equal(found.tp, table[rows, columns])
    with pytest.raises(ValueError, match="number the regions from 0 without gaps"):
        matched_metrics(labels, predictions + (1 << 40), 3)


def many_to_one_by_loops(labels, regions, classes):
    """Background is the last class: its regions by one pixel at a time."""
    table = np.zeros((classes - 1, max(classes - 1, regions.max() + 1)), int)
    for label, region in zip(labels.ravel(), regions.ravel(), strict=True):
        if label < classes - 1:
            table[label, region] += 1
    rows, columns = linear_sum_assignment(table, maximize=True)
    kept = {columns[c] for c in rows if any(table[c, columns[other]] for other in rows)}
    return np.array([[region if region in kept else regions.max() + 1 for region in row] for row in regions])


@given(label_maps, region_numbers)
def test_regions_of_no_class_are_background(labels, predictions):
    for truth, regions in zip(labels, predictions, strict=True):
        truth, regions = truth.astype(int), regions.astype(int)
        merged = merge_background(truth, regions, 4, 3)
        np.testing.assert_array_equal(merged, many_to_one_by_loops(truth, regions, 4))
        first = np.where(truth == 255, 255, (truth + 1) % 4)  # the same with background as the first class
        found = background_metrics(truth, regions, 4, 3)[:3]
        np.testing.assert_array_equal(np.roll(background_metrics(first, regions, 4, 0)[:3], -1, 1), found)
        np.testing.assert_array_equal(found, matched_metrics(truth, merged, 4)[:3])
    with pytest.raises(ValueError, match="background must be in 0 to 3, got 4"):
        merge_background(labels[0], predictions[0], 4, 4)


@pytest.mark.parametrize("measure", [matched_metrics, matched_metrics_free])
def test_a_perfect_prediction_scores_one(measure):
    labels = np.array([[0, 0, 2], [2, 5, 255]])
    assert measure(labels, np.array([[7, 7, 1], [1, 3, 0]]), 6)[4:] == (1, 1)


def test_scores_of_a_set_are_the_sums_of_its_images():
    labels, predictions = GOLDEN["hung_label"], GOLDEN["hung_pred"]
    parts = [matched_metrics(a, b, 9) for a, b in zip(labels, predictions, strict=True)]
    together = from_counts(np.sum([part[:3] for part in parts], 0), sum(part.total for part in parts))
    for one, other in zip(together, matched_metrics(labels, predictions, 9), strict=True):
        np.testing.assert_allclose(one, other)


def test_nothing_labeled_scores_nan():
    scores = matched_metrics(np.full((2, 2), 255), np.zeros((2, 2), int), 3)
    assert scores.total == 0
    assert np.isnan(scores.miou)
    assert np.isnan(scores.accuracy)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "must both be"),
        (np.full((2, 2), 4), np.zeros((2, 2), int), "labels must be in 0 to 3"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), "0 or more, got -1"),
    ],
)
def test_bad_label_maps_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        matched_metrics(labels, predictions, 4)
