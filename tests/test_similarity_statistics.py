from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import combine_pvalues, kstest, linregress, mannwhitneyu, rankdata, spearmanr

from sae_core.similarity.decoys import draw_decoys, shuffle_partners
from sae_core.similarity.permutation import combined_p, frequency_strata, permutation_test
from sae_core.similarity.statistics import auc, equal_count_bins, log_bins, mean, partial_spearman, spearman


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_spearman_is_that_of_scipy_ties_included(rng):
    for n in (3, 10, 200):
        x, y = rng.integers(0, 6, n).astype(float), rng.standard_normal(n)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_partial_spearman_is_the_textbook_formula(rng):
    x, y, z = rng.standard_normal((3, 300))
    x, y = x + z, y - 2 * z + x
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, z) == pytest.approx(expected)


def test_partial_spearman_given_the_logarithm_is_the_same(rng):
    x, y, z = rng.random((3, 50))
    assert partial_spearman(x, y, np.log(z)) == partial_spearman(x, y, z)


def test_a_constant_given_variable_leaves_the_raw_correlation(rng):
    x, y = rng.standard_normal((2, 50))
    assert partial_spearman(x, y, np.ones(50)) == pytest.approx(spearman(x, y))


def test_what_is_not_defined_is_none(rng):
    three, four = np.array([1.0, 2.0, 3.0]), np.arange(4.0)
    assert spearman(np.ones(3), three) is None
    assert spearman(three[:2], three[:2]) is None
    assert partial_spearman(three, three, three) is None
    assert partial_spearman(four, np.array([2.0, 1, 4, 3]), four) is None  # nothing of x is left
    assert permutation_test(four, np.array([2.0, 1, 4, 3]), four, 10, 9, rng) is None
    assert auc(three, three[:0]) is None
    assert mean(np.array([np.nan])) is None
    assert combined_p([]) is None


def test_auc_is_mann_whitney_and_counts_the_pairs_in_order(rng):
    assert auc(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    a, b = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    assert auc(a, b) == pytest.approx(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))
    assert auc(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / (40 * 30))


def test_equal_count_bins_hold_all_pairs_in_order_of_cosine(rng):
    cosine, similarity = rng.random((2, 23))
    bins = equal_count_bins(cosine, similarity, np.full(23, np.nan))
    assert [b.n for b in bins] == [5, 5, 5, 4, 4]
    assert sum(b.n * b.mean_similarity for b in bins) == pytest.approx(similarity.sum())
    assert all(a.high <= b.low for a, b in pairwise(bins))
    assert bins[0].mean_decoy is None


def test_log_bins_are_those_of_the_paper_and_what_lies_below_stands_before_them():
    cosine = np.array([0.01, 0.065, 0.1129, 0.113, 0.5, 0.58, 1.0, 1.0 + 1e-12])
    bins = log_bins(cosine, cosine, cosine)
    assert [(b.low, b.high) for b in bins] == [
        (0, 0.065), (0.065, 0.113), (0.113, 0.195), (0.195, 0.336), (0.336, 0.58), (0.58, 1)
    ]  # fmt: skip
    assert [b.n for b in bins] == [1, 2, 1, 0, 1, 3]
    assert bins[3].mean_similarity is None
    assert bins[1].sd_similarity == pytest.approx(np.std([0.065, 0.1129], ddof=1))
    assert len(log_bins(cosine[1:], cosine[1:], cosine[1:])) == 5


def test_bins_of_nothing_are_none_at_all():
    nothing = np.zeros(0)
    assert equal_count_bins(nothing, nothing, nothing) == log_bins(nothing, nothing, nothing) == []


def _permutations_by_hand(x, y, z, strata, n, rng):
    """The partial correlations of y whose distance from its trend in each stratum is permuted, by regressions."""
    rx, ry, rz = map(rankdata, (x, y, z))
    found = []
    for _ in range(n):
        fresh = np.empty(len(y))
        for rows in strata:
            fit = linregress(rz[rows], ry[rows])
            trend = fit.intercept + fit.slope * rz[rows]
            fresh[rows] = trend + rng.permutation(ry[rows] - trend)
        left = [v - np.polyval(np.polyfit(rz, v, 1), rz) for v in (rx, fresh)]
        found.append(np.corrcoef(*left)[0, 1])
    return np.array(found)


def test_the_permutation_test_is_the_one_made_by_regressions(rng):
    x, y, z = rng.standard_normal((3, 90))
    x, y = x + z**3, y + z**3 + 0.3 * x
    strata = frequency_strata(z, 4, rng)
    by_hand = _permutations_by_hand(x, y, z, strata, 800, rng)
    found = permutation_test(x, y, z, 4, 4000, rng)
    truth = abs(partial_spearman(x, y, z))
    assert found.mean == pytest.approx(by_hand.mean(), abs=5 * by_hand.std() / np.sqrt(800))
    assert found.p_value == pytest.approx((1 + (np.abs(by_hand) >= truth).sum()) / 801, abs=0.05)


@pytest.mark.parametrize("n", [35, 150])
@pytest.mark.parametrize("bent", [False, True])
def test_its_p_values_are_uniform_where_x_and_y_depend_on_frequency_only(n, bent):
    rng = np.random.default_rng(n)
    p_values = []
    for _ in range(250):
        z = rng.standard_normal(n)
        base = np.tanh(3 * (z - 1)) if bent else z
        x, y = base + 0.5 * rng.standard_normal((2, n))
        p_values.append(permutation_test(x, y, z, 10, 99, rng).p_value)
    assert kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) <= 0.05) < 0.1


def test_what_a_bent_dependence_on_frequency_makes_by_itself_is_the_mean_of_the_permutations(rng):
    z = rng.standard_normal(4000)
    x, y = np.tanh(3 * (z - 1)) + 0.5 * rng.standard_normal((2, 4000))
    truth = partial_spearman(x, y, z)
    assert truth > 0.15  # ranks follow frequency along a bend, which regression on ranks leaves
    found = permutation_test(x, y, z, 10, 99, rng)
    assert found.mean == pytest.approx(truth, abs=0.05)
    assert found.p_value > 0.01


def test_a_true_relation_has_the_smallest_p_that_so_many_permutations_can_give(rng):
    x, z = rng.standard_normal((2, 200))
    assert permutation_test(x, x + z, z, 10, 99, rng).p_value == pytest.approx(1 / 100)


def test_several_p_values_count_as_twice_their_median():
    assert combined_p([0.2]) == 0.2
    assert combined_p([0.01, 0.3, 0.02]) == pytest.approx(0.04)
    assert combined_p([0.01, 0.03]) == pytest.approx(0.04)
    assert combined_p([0.9, 0.8]) == 1
    # Under independence too it is valid, if not as sharp as Fisher's.
    assert combined_p([0.02, 0.03, 0.04]) > combine_pvalues([0.02, 0.03, 0.04]).pvalue


def test_twice_the_median_is_valid_however_p_values_depend(rng):
    common = rng.random(4000)
    for p_values in (np.stack([common] * 3, 1), np.stack([common, (common + 0.5) % 1, rng.random(4000)], 1)):
        found = np.array([combined_p(row.tolist()) for row in p_values])
        assert all((found <= level).mean() <= level + 0.015 for level in (0.05, 0.1, 0.3))


def test_strata_hold_as_many_each_by_rising_frequency(rng):
    frequency = rng.integers(0, 9, 103).astype(float)
    strata = frequency_strata(frequency, 10, rng)
    assert sorted(len(rows) for rows in strata) == [10] * 7 + [11] * 3
    assert sorted(np.concatenate(strata)) == list(range(103))
    assert all(frequency[a].max() <= frequency[b].min() for a, b in pairwise(strata))


def test_decoys_are_different_other_features_of_nearly_the_same_frequency(rng):
    frequency = rng.permutation(400).astype(float)
    drawn = draw_decoys(frequency, np.arange(400), np.arange(400), 6, rng)
    assert (drawn >= 0).all()
    assert (drawn != np.arange(400)[:, None]).all()
    assert all(len(set(row)) == 6 for row in drawn)
    assert np.abs(frequency[drawn] - frequency[:, None]).max() == 20


def test_decoys_come_from_the_pool_only_and_are_a_tenth_of_it_away_at_most(rng):
    frequency, pool, wanted = np.arange(200.0), np.arange(0, 200, 2), np.array([0, 60, 198])
    drawn = draw_decoys(frequency, pool, wanted, 3, rng)
    assert (drawn % 2 == 0).all()
    assert (np.abs(frequency[drawn] - frequency[wanted][:, None]) <= 2 * 10).all()


def test_every_neighbour_is_drawn_equally_often(rng):
    frequency = np.arange(100.0)
    drawn = draw_decoys(frequency, np.arange(100), np.full(4000, 50), 2, rng).ravel()
    counts = np.bincount(drawn, minlength=100)
    assert np.flatnonzero(counts).tolist() == [*range(40, 50), *range(51, 61)]
    assert counts[counts > 0].min() > 0.8 * 8000 / 20


def test_a_pool_too_small_leaves_decoys_out(rng):
    assert set(draw_decoys(np.array([1.0, 2.0]), np.arange(2), np.arange(2), 1, rng).ravel()) == {0, 1}
    assert draw_decoys(np.ones(3), np.array([1]), np.array([1]), 2, rng).tolist() == [[-1, -1]]
    assert draw_decoys(np.ones(3), np.arange(3), np.array([1]), 4, rng)[0].tolist().count(-1) == 2
    assert draw_decoys(np.ones(3), np.arange(0), np.arange(0), 4, rng).shape == (0, 4)


def test_shuffled_partners_are_a_permutation_without_fixed_point_among_like_frequencies(rng):
    for n in (2, 3, 25, 500):
        frequency = rng.permutation(n).astype(float)
        partner = shuffle_partners(frequency, 5, rng)
        assert sorted(partner) == list(range(n))
        assert (partner != np.arange(n)).all()
        assert np.abs(frequency[partner] - frequency).max() <= max(20, n if n < 50 else 0) + 1
    assert shuffle_partners(np.ones(1), 5, rng).tolist() == [-1]
