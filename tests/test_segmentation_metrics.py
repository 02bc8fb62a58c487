import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, jaccard_score

from mmdit_probe.metrics.segmentation import measure_labels

maps = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255]))
guesses = arrays(np.uint8, (4, 5), elements=st.integers(0, 2))


@given(maps, guesses)
def test_metrics_agree_with_scikit_learn(labels, predictions):
    kept = labels != 255
    if not kept.any():
        return
    metrics = measure_labels(labels, predictions, 3)
    occurring = np.union1d(labels[kept], predictions[kept])
    iou = jaccard_score(labels[kept], predictions[kept], labels=occurring, average=None, zero_division=0)
    np.testing.assert_allclose(metrics.iou[occurring], iou)
    assert metrics.miou_absent_zero == pytest.approx(iou.mean())
    assert metrics.miou == pytest.approx(iou[np.isin(occurring, labels[kept])].mean())
    assert metrics.pixel_accuracy == pytest.approx(accuracy_score(labels[kept], predictions[kept]))


@given(maps, guesses, maps, guesses)
def test_metrics_of_a_set_are_those_of_its_pixels(a, b, c, d):
    together = measure_labels(np.concatenate([a, c]), np.concatenate([b, d]), 3)
    np.testing.assert_array_equal((measure_labels(a, b, 3) + measure_labels(c, d, 3)).confusion, together.confusion)


def test_a_perfect_prediction_scores_one():
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    metrics = measure_labels(labels, np.where(labels == 255, 0, labels), 3)
    assert metrics.miou == metrics.pixel_accuracy == 1


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "must have the same shape"),
        (np.full((2, 2), 7), np.zeros((2, 2), int), "labels must be in 0 to 2"),
        (np.zeros((2, 2), int), np.full((2, 2), 3), "predictions must be in 0 to 2"),
    ],
)
def test_bad_maps_are_refused(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        measure_labels(labels, predictions, 3)
