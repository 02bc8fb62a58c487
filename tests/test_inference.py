"""Whether what is said of leaders, intervals and ties is right: by simulation, and by slow twins."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from mmdit_probe.metrics.bootstrap import bootstrap_weights
from mmdit_probe.metrics.inference import (
    best,
    best_drawn,
    drawn_interval,
    drawn_p,
    mean_interval,
    outside_chance,
    picked_p,
    two_sided_picked_p,
)
from mmdit_probe.studies.expert_layer import SIGNS, chosen_expert, expert_lead
from mmdit_probe.studies.guidance import gain_lines
from mmdit_probe.studies.perturbation import most_harmful

RUNS = 1000


def verdicts(candidates, prompts, effects=(), seeds=2, over="rest", runs=RUNS, draw="normal"):
    """In how many of the runs the leader's lead is outside chance, and in how many it is told from the next one too."""
    rng = np.random.default_rng(0)
    outside = apart = 0
    for _ in range(runs):
        values = getattr(rng, draw)(size=(candidates, prompts, seeds)) - (draw == "exponential")
        values = values + rng.normal(size=(1, prompts, 1))  # what prompts have in common
        for candidate, effect in effects:
            values[candidate] += effect / seeds**0.5  # in standard deviations of a prompt's mean
        lead = best(values, over)
        outside, apart = outside + bool(lead.outside), apart + lead.apart
    return outside / runs, apart / runs


@pytest.mark.parametrize(("layers", "prompts"), [(12, 20), (12, 5), (12, 8), (2, 20), (4, 40), (24, 12)])
def test_without_an_effect_hardly_any_leader_is_outside_chance(layers, prompts):
    assert verdicts(layers, prompts)[0] <= 0.05


def test_skewed_drops_are_no_effect_either():
    assert verdicts(12, 20, draw="exponential")[0] <= 0.05


def test_an_effect_of_one_standard_deviation_is_mostly_found():
    outside, _ = verdicts(12, 20, [(3, 1.0)])
    assert outside > 0.8
    assert verdicts(12, 20, [(3, 2.0)])[1] > 0.9


def test_two_layers_with_the_same_effect_are_hardly_ever_told_apart():
    for effect in (1.0, 3.0):
        assert verdicts(12, 20, [(3, effect), (5, effect)])[1] <= 0.06


def test_what_a_layer_takes_is_tested_too_without_a_common_effect():
    rng = np.random.default_rng(0)
    wrong = sum(bool(best(rng.normal(size=(4, 20, 2)), "zero").outside) for _ in range(RUNS))
    assert wrong / RUNS <= 0.05


def table_of(values, column):
    """`measure_images` of drops (changed, prompts, seeds) from plain images of 0.5."""
    changed, prompts, seeds = values.shape
    plain = np.full((1, prompts, seeds), 0.5)
    scores = np.concatenate([plain, 0.5 - values])
    place = np.indices(scores.shape).reshape(3, -1)
    names = pd.array([pd.NA, *range(changed)], "Int64") if column == "layer" else np.arange(changed + 1.0)
    return pd.DataFrame({column: names[place[0]], "number": place[1], "seed": place[2], "clip_t": scores.ravel()})


@pytest.mark.parametrize(("effect", "low", "high"), [(0.0, 0.0, 0.05), (1.0, 0.8, 1.0)])
def test_perturbs_sentences(effect, low, high):
    """12 layers, 20 prompts: the very sentences; 200 runs, since tables are slow."""
    rng, said = np.random.default_rng(1), 0
    for _ in range(200):
        drops = rng.normal(size=(12, 20, 1))
        drops[4] += effect
        said += any("outside chance" in line for line in most_harmful(table_of(drops, "layer"), "clip_t"))
    assert low <= said / 200 <= high


@pytest.mark.parametrize(("effect", "low", "high"), [(0.0, 0.0, 0.05), (1.0, 0.9, 1.0)])
def test_guides_sentences(effect, low, high):
    """3 scales, 20 prompts."""
    rng, said = np.random.default_rng(1), 0
    for _ in range(200):
        gains = rng.normal(size=(3, 20, 1))
        gains[1] += effect
        said += any("is outside chance" in line for line in gain_lines(table_of(-gains, "scale"), ["clip_t"]))
    assert low <= said / 200 <= high


def signs_of(rng, effect, layers=12, prompts=20):
    place = np.indices((layers, prompts)).reshape(2, -1)
    shared = {name: rng.normal(size=(layers, prompts)) for name in SIGNS}
    for name in SIGNS:
        shared[name][3] += effect
    values = {name: of.ravel() for name, of in shared.items()}
    return pd.DataFrame({"layer": place[0], "number": place[1], **values})


@pytest.mark.parametrize(("effect", "low", "high"), [(0.0, 0.0, 0.05), (1.0, 0.8, 1.0)])
def test_find_experts_lead(effect, low, high):
    """12 layers, 20 prompts."""
    rng, said = np.random.default_rng(2), 0
    for _ in range(200):
        said += any("outside chance" in line for line in expert_lead(chosen_expert(signs_of(rng, effect))))
    assert low <= said / 200 <= high


def test_the_signs_flip_for_whole_prompts():
    """The slow twin: every pattern of signs, the largest t statistic of each."""
    values = np.random.default_rng(0).normal(0.3, 1, (3, 6))

    def t(rows):
        return ttest_1samp(rows, 0, axis=1).statistic

    largest = [t(values * np.array(signs)).max() for signs in product([1, -1], repeat=6)]
    expected = [(np.array(largest) >= own - 1e-9).mean() for own in t(values)]
    np.testing.assert_allclose(picked_p(values), expected)


def test_a_candidate_more_makes_no_lead_surer():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, (6, 20))
    assert (picked_p(values)[:3] >= picked_p(values[:3])).all()


def test_a_loss_is_found_as_a_gain_is():
    values = np.random.default_rng(0).normal(0.8, 1, (3, 20))
    values[0] -= 0.8
    found = two_sided_picked_p(values)
    assert np.array_equal(found, two_sided_picked_p(-values))
    assert (found >= picked_p(values))[1:].all()
    assert found[0] > 0.2
    assert found[1:].max() < 0.05


def test_the_random_flips_own_error_is_counted():
    assert outside_chance(0.05, 10)
    assert not outside_chance(0.05, 11)
    assert outside_chance(0.03, 11)
    assert not outside_chance(float("nan"), 3)


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_interval_covers_the_mean(n):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(RUNS):
        found = mean_interval(rng.normal(size=(n, 2)))
        covered += found.low <= 0 <= found.high
    assert covered / RUNS > (0.9 if n == 5 else 0.93)


def test_the_interval_of_a_mean_is_as_wide_as_students():
    values = np.random.default_rng(0).normal(size=40)
    half = 2.023 * values.std(ddof=1) / 40**0.5
    found = mean_interval(values)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)


def test_seeds_are_nested_in_prompts():
    prompts = np.random.default_rng(0).normal(size=(12, 8, 1))
    once, repeated = best(prompts), best(prompts.repeat(10, axis=2))
    assert once.value == pytest.approx(repeated.value)
    assert once.outside == repeated.outside


@pytest.mark.parametrize("n", [0, 1, 4])
def test_below_five_there_is_no_interval(n):
    found = mean_interval(np.arange(n, dtype=float))
    assert found.n == n
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero
    assert np.isnan(picked_p(np.ones((2, n)))).all()
    assert np.isnan(drawn_p(np.ones(2), np.ones((9, 2)), n)).all()


def test_prompts_without_a_number_are_left_out():
    values = np.random.default_rng(0).normal(size=(3, 8, 2))
    values[1, 2] = np.nan
    values[0, 3, 1] = np.nan  # one seed of two
    assert best(values).value.n == 7
    with pytest.raises(ValueError, match="nothing can be compared"):
        best(np.full((2, 3, 1), np.nan))


def test_equal_candidates_tie():
    values = np.random.default_rng(0).normal(size=(1, 8, 1)).repeat(3, axis=0)
    lead = best(values)
    assert lead.tied == (0, 1, 2)
    assert not lead.outside


def drawn_means(values):
    weights = bootstrap_weights(values.shape[1], 2000)
    return weights @ values.T / values.shape[1]


def test_estimates_that_are_no_means_are_judged_by_their_draws():
    """The same verdicts as of means, where the estimate is one."""
    rng = np.random.default_rng(0)
    wrong = right = 0
    for _ in range(200):
        values = rng.normal(size=(12, 30))
        wrong += bool(best_drawn(values.mean(1), drawn_means(values), 30).outside)
        values[5] += 1
        right += bool(best_drawn(values.mean(1), drawn_means(values), 30).outside)
    assert wrong / 200 <= 0.06
    assert right / 200 > 0.8


def test_the_interval_of_draws_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(size=20)
    weights = bootstrap_weights(20)
    assert drawn_interval(values.mean(), weights @ values / 20, 20) == pytest.approx(mean_interval(values))
