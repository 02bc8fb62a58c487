import numpy as np
import pytest

from mmdit_probe.metrics.bootstrap import bootstrap_mean


def test_the_interval_of_independent_prompts_is_the_normal_one():
    values = np.random.default_rng(0).normal(1.0, 2.0, (400, 1))
    mean, low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - half, abs=0.03)
    assert high == pytest.approx(mean + half, abs=0.03)


def test_seeds_of_one_prompt_do_not_count_as_independent():
    prompts = np.random.default_rng(0).normal(0, 1, (30, 1))
    _, low, high = bootstrap_mean(np.repeat(prompts, 10, 1))
    _, alone_low, alone_high = bootstrap_mean(prompts)
    assert high - low == pytest.approx(alone_high - alone_low, rel=0.15)


def test_constant_values_have_no_interval_and_nan_is_left_out():
    assert bootstrap_mean(np.array([[2.0, 2.0], [2.0, np.nan]])) == (2.0, 2.0, 2.0)


def test_it_is_the_same_each_time():
    values = np.random.default_rng(0).normal(size=(10, 3))
    assert bootstrap_mean(values) == bootstrap_mean(values)


def test_rounding_does_not_decide_what_lies_at_zero():
    """Shares of five facts: the verdict is that of whole numbers, whose sums are exact."""
    rng, at_zero = np.random.default_rng(0), 0
    for _ in range(100):
        drawn, asked = rng.choice(6, (2, 12), p=[0, 0.05, 0.05, 0.05, 0.05, 0.8])
        _, low, high = bootstrap_mean((drawn - asked)[:, None].astype(float), draws=500)
        _, rounded_low, rounded_high = bootstrap_mean((drawn / 5 - asked / 5)[:, None], draws=500)
        assert (np.sign(rounded_low), np.sign(rounded_high)) == (np.sign(low), np.sign(high))
        at_zero += low == 0 or high == 0
    assert at_zero > 10
