"""Uncertainty over seeds."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student_t
from scipy.stats import ttest_ind

from sae_core.consistency import statistics as statistics
from sae_core.consistency.statistics import compare_variants, jackknife, pair_mean, pseudo_values


def pair_matrix(values: dict[tuple[int, int], float], n_runs: int) -> np.ndarray:
    matrix = np.full((n_runs, n_runs), np.nan)
    for (i, j), value in values.items():
        matrix[i, j] = matrix[j, i] = value
    return matrix


@pytest.mark.parametrize("n_runs", [3, 4, 5, 10])
def test_the_variance_is_that_of_leaving_one_run_out(n_runs):
    rng = np.random.default_rng(n_runs)
    values = pair_matrix({(i, j): rng.random() for i in range(n_runs) for j in range(i)}, n_runs)
    without = [pair_mean(np.delete(np.delete(values, i, 0), i, 1)) if n_runs > 3 else None for i in range(n_runs)]
    if n_runs == 3:  # leaving one of three runs out leaves one pair
        without = [values[1, 2], values[0, 2], values[0, 1]]
    variance = (n_runs - 1) / n_runs * ((np.array(without) - np.mean(without)) ** 2).sum()
    assert jackknife(values).standard_error == pytest.approx(np.sqrt(variance))


def test_the_interval_of_three_runs_by_hand():
    # Pairs .5, .6, .7: run means .55, .6, .65; Var = 4*2/3 * (.05^2 + .05^2) = .013333.
    interval = jackknife(pair_matrix({(0, 1): 0.5, (0, 2): 0.6, (1, 2): 0.7}, 3))
    assert interval.standard_error == pytest.approx(np.sqrt(8 / 3 * 0.005))
    assert interval.high - 0.6 == pytest.approx(student_t.ppf(0.975, 2) * interval.standard_error)
    assert (interval.low + interval.high) / 2 == pytest.approx(0.6)


def test_two_runs_have_no_interval():
    assert jackknife(pair_matrix({(0, 1): 0.5}, 2)) is None


def test_equal_pairs_have_an_interval_of_width_zero():
    interval = jackknife(pair_matrix({(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}, 3))
    assert interval.low == interval.high == pytest.approx(0.5)


def test_the_diagonal_is_ignored():
    values = pair_matrix({(0, 1): 0.5, (0, 2): 0.6, (1, 2): 0.7}, 3)
    with_ones = values.copy()
    np.fill_diagonal(with_ones, 1.0)
    assert jackknife(with_ones) == jackknife(values)


def test_the_interval_covers_the_truth_although_pairs_share_runs():
    # Value of a pair = mean of its runs' qualities, so pairs are correlated; the truth is the mean quality 0.
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        quality = rng.standard_normal(6)
        interval = jackknife((quality[:, None] + quality[None, :]) / 2)
        hits += interval.low <= 0 <= interval.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)


def test_a_missing_pair_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        jackknife(pair_matrix({(0, 1): 0.5, (0, 2): 0.6}, 3))


def test_a_matrix_that_is_not_symmetric_is_refused():
    values = pair_matrix({(0, 1): 0.5, (0, 2): 0.6, (1, 2): 0.7}, 3)
    values[0, 1] = 0.9
    with pytest.raises(ValueError, match="symmetric"):
        jackknife(values)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (0, 0)])
def test_what_is_no_matrix_of_pairs_is_refused(shape):
    with pytest.raises(ValueError, match="square matrix of at least two runs"):
        jackknife(np.zeros(shape))


def additive(*quality: float) -> np.ndarray:
    """Pairs whose value is the sum of what either run brings."""
    return np.add.outer(np.array(quality), np.array(quality))


def noisy(rng: np.random.Generator, n_runs: int, run_spread: float, pair_spread: float) -> np.ndarray:
    noise = np.triu(rng.standard_normal((n_runs, n_runs)), 1) * pair_spread
    return additive(*(run_spread * rng.standard_normal(n_runs))) + noise + noise.T


def test_pseudo_values_are_what_leaving_a_run_out_takes_away():
    values = noisy(np.random.default_rng(0), 6, 1.0, 0.5)
    by_hand = [6 * pair_mean(values) - 5 * pair_mean(np.delete(np.delete(values, i, 0), i, 1)) for i in range(6)]
    found = pseudo_values(values)
    assert found == pytest.approx(by_hand)
    assert found.mean() == pytest.approx(pair_mean(values))
    assert np.sqrt(found.var(ddof=1) / 6) == pytest.approx(jackknife(values).standard_error)


def test_the_pseudo_value_of_a_run_is_twice_what_it_brings_when_pairs_are_sums():
    assert pseudo_values(additive(0.1, 0.2, 0.4, 0.35)) == pytest.approx([0.2, 0.4, 0.8, 0.7])


def test_three_runs_each_that_do_not_overlap_have_the_smallest_p_there_is():
    found = compare_variants(additive(0.41, 0.42, 0.43), additive(0.3, 0.31, 0.32))
    assert found.difference == pytest.approx(0.22)
    assert (found.p_value, found.smallest_p) == pytest.approx((0.1, 0.1))  # 2 of the 20 ways
    assert (found.n_permutations, found.exact, found.reason) == (20, True, None)


def test_the_p_value_is_that_of_trying_all_labellings():
    rng = np.random.default_rng(1)
    a, b = noisy(rng, 4, 1, 0.3), noisy(rng, 5, 1, 0.3) + 1
    runs = np.concatenate([pseudo_values(a), pseudo_values(b)])
    t = [
        ttest_ind(runs[list(chosen)], np.delete(runs, list(chosen)), equal_var=False).statistic
        for chosen in combinations(range(9), 4)
    ]
    reached = np.abs(t) >= np.abs(t[0]) * (1 - 1e-9)  # the first way is the true one
    found = compare_variants(a, b)
    assert found.p_value == pytest.approx(reached.mean())
    assert found.smallest_p == pytest.approx(1 / 126)
    assert found.p_value >= found.smallest_p


def test_swapping_the_variants_changes_the_sign_alone():
    rng = np.random.default_rng(2)
    a, b = noisy(rng, 4, 1, 0.3), noisy(rng, 6, 1, 0.3) + 1
    there, back = compare_variants(a, b), compare_variants(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.ci_low, there.ci_high) == pytest.approx((-back.ci_high, -back.ci_low))
    assert there.p_value == back.p_value


def test_equal_variants_have_a_p_value_of_one():
    found = compare_variants(additive(0.2, 0.2, 0.2), additive(0.2, 0.2, 0.2))
    assert found.p_value == 1
    assert found.difference == found.ci_low == found.ci_high == pytest.approx(0)


def test_variants_whose_runs_do_not_vary_at_all_are_still_told_apart():
    found = compare_variants(additive(0.3, 0.3, 0.3, 0.3), additive(0.2, 0.2, 0.2, 0.2))
    assert found.p_value == pytest.approx(found.smallest_p) == pytest.approx(2 / 70)
    assert found.ci_low == found.ci_high == pytest.approx(0.2)


def test_the_interval_of_a_difference_is_welchs_over_pseudo_values():
    a, b = additive(0.41, 0.47, 0.43), additive(0.3, 0.31, 0.32, 0.39)
    errors = [jackknife(values).standard_error for values in (a, b)]
    freedom = (errors[0] ** 2 + errors[1] ** 2) ** 2 / (errors[0] ** 4 / 2 + errors[1] ** 4 / 3)
    found = compare_variants(a, b)
    half = student_t.ppf(0.975, freedom) * np.hypot(*errors)
    assert found.ci_high - found.difference == pytest.approx(found.difference - found.ci_low) == pytest.approx(half)


def test_a_variant_of_two_runs_cannot_be_compared_and_the_result_says_why():
    found = compare_variants(additive(0.4, 0.5), additive(0.1, 0.2, 0.3))
    assert found.difference == pytest.approx(0.5)
    assert found.p_value is found.ci_low is found.ci_high is found.smallest_p is None
    assert "at least three runs of each" in found.reason


def test_with_too_many_labellings_random_ones_give_nearly_the_same_p_value(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = noisy(rng, 7, 1, 0.3), noisy(rng, 7, 1, 0.3) + 0.9
    exact = compare_variants(a, b)
    monkeypatch.setattr(statistics, "EXACT_LABELLINGS", 3000)
    sampled = compare_variants(a, b)
    assert not sampled.exact
    assert sampled.n_permutations == 3001
    assert sampled.smallest_p == pytest.approx(1 / 3001)
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.03)
    assert sampled == compare_variants(a, b)


def false_alarms(sizes: tuple[int, int], run_spread: float, pair_spread: float, n_trials: int) -> np.ndarray:
    """p-values of variants whose runs are drawn alike."""
    rng = np.random.default_rng(sum(sizes))
    drawn = ([noisy(rng, n, run_spread, pair_spread) for n in sizes] for _ in range(n_trials))
    return np.array([compare_variants(a, b).p_value for a, b in drawn])


CASES = [((4, 4), 1.0, 0.0), ((4, 4), 0.0, 1.0), ((5, 5), 1.0, 1.0), ((4, 7), 1.0, 0.3), ((4, 7), 0.0, 1.0)]


@pytest.mark.parametrize(("sizes", "run_spread", "pair_spread"), CASES)
@pytest.mark.parametrize("n_trials", [300, pytest.param(4000, marks=pytest.mark.slow)])
def test_variants_that_do_not_differ_are_called_different_no_more_often_than_promised(
    sizes, run_spread, pair_spread, n_trials
):
    p = false_alarms(sizes, run_spread, pair_spread, n_trials)
    for level in (0.05, 0.1, 0.3):
        assert (p <= level + 1e-9).mean() <= level + 3 * np.sqrt(level * (1 - level) / n_trials)


def test_a_t_test_over_pairs_would_call_equal_variants_different_several_times_too_often():
    rng = np.random.default_rng(0)
    upper = np.triu_indices(5, 1)
    p = [ttest_ind(noisy(rng, 5, 1.0, 0.3)[upper], noisy(rng, 5, 1.0, 0.3)[upper]).pvalue for _ in range(300)]
    assert np.mean(np.array(p) <= 0.05) > 0.25


def pair_mccs(rng: np.random.Generator, truth: np.ndarray, n_runs: int, noise: float) -> np.ndarray:
    """MCC between noisy copies of one dictionary; a run's noise varies, so runs differ in quality."""
    copies = [truth + noise * rng.uniform(0.5, 1.5) * rng.standard_normal((12, 6)) for _ in range(n_runs)]
    runs = [W / np.linalg.norm(W, axis=1, keepdims=True) for W in copies]
    values = np.full((n_runs, n_runs), np.nan)
    for i, j in combinations(range(n_runs), 2):
        cosines = np.abs(runs[i] @ runs[j].T)
        values[i, j] = values[j, i] = cosines[linear_sum_assignment(cosines, maximize=True)].mean()
    return values


def test_real_matchings_of_equal_recipes_are_not_called_different_too_often_and_unequal_ones_are():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((12, 6))

    def p_value(n_runs: int, noise_a: float, noise_b: float) -> float:
        return compare_variants(*(pair_mccs(rng, truth, n_runs, noise) for noise in (noise_a, noise_b))).p_value

    same = np.array([p_value(4, 0.4, 0.4) for _ in range(400)])
    assert np.mean(same <= 0.1 + 1e-9) <= 0.1 + 3 * np.sqrt(0.09 / 400)
    different = np.array([p_value(5, 0.3, 0.8) for _ in range(50)])
    assert np.mean(different <= 0.05) > 0.8


def test_one_run_is_refused():
    with pytest.raises(ValueError, match="square matrix of at least two runs"):
        compare_variants(np.zeros((1, 1)), additive(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="at least three runs are needed, got 2"):
        pseudo_values(additive(0.1, 0.2))
