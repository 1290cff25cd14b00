"""Recovery by groups of true features, and the law of their capacity against the likelihood written out."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from sae_core.matching import match
from sae_core.synthetic.feature_groups import feature_groups

TRUTH = np.eye(24)
"""Orthogonal: a run that holds some of them is matched with these."""


def runs_with(counts, size):
    """Matchings of runs that hold so many features of each group."""
    return [
        match(TRUTH[np.concatenate([g * size + np.arange(n) for g, n in enumerate(row)]).astype(int)], TRUTH)
        for row in counts
    ]


def frequencies(probabilities, size):
    return np.repeat(np.array(probabilities, float), size)


def log_likelihood(parameters, counts, probabilities):
    """Of the Poisson regression, over every run and group."""
    rate = np.exp(parameters[0] + parameters[1] * np.log(probabilities))
    return sum(stats.poisson.logpmf(row, rate).sum() for row in counts)


def fitted(counts, probabilities):
    best = minimize(lambda p: -log_likelihood(p, counts, probabilities), np.zeros(2), method="Nelder-Mead",
                    options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})  # fmt: skip
    return best.x


COUNTS = [[6, 3, 2, 1], [5, 4, 1, 0], [6, 4, 0, 1], [4, 3, 3, 1]]
PROBABILITIES = [0.4, 0.3, 0.1, 0.05]


# --- the law ----------------------------------------------------------------------------------------------------


def test_an_exact_power_law_is_found_exactly():
    _, law = feature_groups(runs_with([[4, 2, 1]] * 3, 8), frequencies([0.4, 0.2, 0.1], 8), 3)
    assert (law.alpha, law.ci_low, law.ci_high) == pytest.approx((1, 1, 1))
    _, steeper = feature_groups(runs_with([[8, 2]] * 2, 12), frequencies([0.4, 0.2], 12), 2)
    assert steeper.alpha == pytest.approx(2)


def test_alpha_maximises_the_likelihood():
    _, law = feature_groups(runs_with(COUNTS, 6), frequencies(PROBABILITIES, 6), 4)
    intercept, alpha = fitted(COUNTS, PROBABILITIES)
    assert law.alpha == pytest.approx(alpha, abs=1e-6)
    for step in (-1e-3, 1e-3):  # the gradient is zero: both ways are equally steep, downwards
        assert log_likelihood([intercept, law.alpha + step], COUNTS, PROBABILITIES) < log_likelihood(
            [intercept, law.alpha], COUNTS, PROBABILITIES
        )


def test_the_interval_is_the_jackknife_over_runs():
    _, law = feature_groups(runs_with(COUNTS, 6), frequencies(PROBABILITIES, 6), 4)
    without = np.array([fitted(COUNTS[:i] + COUNTS[i + 1 :], PROBABILITIES)[1] for i in range(4)])
    error = np.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    half_width = stats.t.ppf(0.975, 3) * error
    assert (law.ci_low, law.ci_high) == pytest.approx((law.alpha - half_width, law.alpha + half_width), abs=1e-5)


def test_a_law_that_made_the_counts_lies_in_the_interval():
    rng = np.random.default_rng(0)
    probabilities = np.arange(1, 5.0) ** -1
    share = probabilities**1.4 / (probabilities**1.4).sum()
    inside = []
    for _ in range(25):
        counts = np.minimum(rng.multinomial(7, share, size=8), 6)
        _, law = feature_groups(runs_with(counts, 6), frequencies(probabilities, 6), 4)
        inside.append(law.ci_low <= 1.4 <= law.ci_high)
    assert np.mean(inside) > 0.8


def test_rare_groups_may_get_more_than_frequent_ones():
    _, law = feature_groups(runs_with([[1, 2, 4]] * 2, 8), frequencies([0.4, 0.2, 0.1], 8), 3)
    assert law.alpha == pytest.approx(-1)


def test_there_is_no_law_without_two_groups_that_got_features():
    only_one, size = [[4, 0, 0]] * 3, 8
    probabilities = frequencies([0.4, 0.2, 0.1], size)
    assert feature_groups(runs_with(only_one, size), probabilities, 3)[1] is None
    # Two groups got features, but in one run only: without it nothing is known, and there is no interval.
    assert feature_groups(runs_with([[4, 1, 0], [5, 0, 0]], size), probabilities, 3)[1] is None
    assert feature_groups(runs_with([[4, 2, 1]], size), probabilities, 3)[1] is None
    alike = frequencies([0.2, 0.2, 0.2], size)
    assert feature_groups(runs_with([[4, 2, 1]] * 3, size), alike, 3)[1] is None


def test_groups_that_never_fire_take_no_part_in_the_law():
    runs = runs_with([[4, 2, 1]] * 3, 8)
    groups, law = feature_groups(runs, frequencies([0.4, 0.2, 0.0], 8), 3)
    assert law.alpha == pytest.approx(1)
    assert (groups[2].probability, groups[2].n_matched) == (0, 1)


# --- the groups -------------------------------------------------------------------------------------------------


def test_groups_tell_probability_capacity_and_cosines():
    tilted = 0.8 * TRUTH[[0, 1, 12]] + 0.6 * TRUTH[[20, 21, 22]]
    runs = [match(TRUTH[[0, 1, 2, 12]], TRUTH), match(tilted, TRUTH)]
    groups, _ = feature_groups(runs, np.concatenate([np.linspace(0.2, 0.4, 12), np.full(12, 0.1)]), 2)
    assert [group.number for group in groups] == [1, 2]
    assert [group.probability for group in groups] == pytest.approx([0.3, 0.1])
    assert [group.n_matched for group in groups] == [2.5, 1]
    assert [group.gt_mcc for group in groups] == pytest.approx([(3 * 1 + 2 * 0.8) / 5, 0.9])
    assert [group.gt_mcc_sd for group in groups] == pytest.approx([0.2 / np.sqrt(2)] * 2)


def test_an_empty_group_has_no_cosine_and_one_run_no_deviation():
    groups, _ = feature_groups(runs_with([[2, 0, 1], [2, 0, 0]], 8), frequencies([0.4, 0.2, 0.1], 8), 3)
    assert (groups[1].n_matched, groups[1].gt_mcc, groups[1].gt_mcc_sd) == (0, None, None)
    assert (groups[2].n_matched, groups[2].gt_mcc, groups[2].gt_mcc_sd) == (0.5, pytest.approx(1), None)


def test_capacities_add_up_to_the_features_that_are_matched():
    groups, _ = feature_groups(runs_with(COUNTS, 6), frequencies(PROBABILITIES, 6), 4)
    assert sum(group.n_matched for group in groups) == pytest.approx(np.sum(COUNTS) / 4)


def test_what_makes_no_groups_is_refused():
    runs, frequency = runs_with([[2, 2]], 12), frequencies([0.2, 0.1], 12)
    with pytest.raises(ValueError, match="groups must be equally large: got 5 groups of 24 true features"):
        feature_groups(runs, frequency, 5)
    with pytest.raises(ValueError, match="expected a frequency for each of the 24 true features, got 12"):
        feature_groups(runs, frequency[:12], 2)
    with pytest.raises(ValueError, match="got no matching; pass at least one"):
        feature_groups([], frequency, 2)
    with pytest.raises(ValueError, match="a frequency is negative or not finite"):
        feature_groups(runs, -frequency, 2)
