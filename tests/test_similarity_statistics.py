from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

from sae_core.similarity_statistics import auc, equal_count_bins, log_bins, mean, partial_spearman, spearman


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


def test_partial_spearman_takes_away_what_a_common_cause_makes(rng):
    z = rng.standard_normal(4000)
    x, y = z + rng.standard_normal(4000), z + rng.standard_normal(4000)
    assert spearman(x, y) > 0.4
    assert abs(partial_spearman(x, y, z)) < 0.08


def test_a_constant_given_variable_leaves_the_raw_correlation(rng):
    x, y = rng.standard_normal((2, 50))
    assert partial_spearman(x, y, np.ones(50)) == pytest.approx(spearman(x, y))


def test_what_is_not_defined_is_none():
    three = np.array([1.0, 2.0, 3.0])
    assert spearman(np.ones(3), three) is None
    assert spearman(three[:2], three[:2]) is None
    assert partial_spearman(three, three, three) is None
    four = np.arange(4.0)
    assert partial_spearman(four, np.array([2.0, 1, 4, 3]), four) is None  # nothing of x is left
    assert auc(three, three[:0]) is None
    assert mean(np.array([np.nan])) is None


def test_auc_counts_the_pairs_in_order(rng):
    assert auc(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    a, b = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    brute = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert auc(a, b) == pytest.approx(brute)


def test_equal_count_bins_hold_all_pairs_in_order_of_cosine(rng):
    cosine, similarity = rng.random((2, 23))
    bins = equal_count_bins(cosine, similarity, np.full(23, np.nan))
    assert [b.n for b in bins] == [5, 5, 5, 4, 4]
    assert sum(b.n * b.mean_similarity for b in bins) == pytest.approx(similarity.sum())
    assert all(a.high <= b.low for a, b in pairwise(bins))
    assert bins[0].mean_decoy is None


def test_log_bins_are_equally_wide_in_the_logarithm():
    cosine = np.array([0.01, 0.02, 0.1, 0.5, 1.0])
    bins = log_bins(cosine, cosine, cosine)
    np.testing.assert_allclose([b.high / b.low for b in bins], 100 ** (1 / 5))
    assert [b.n for b in bins] == [2, 0, 1, 0, 2]
    assert bins[1].mean_similarity is None
    assert bins[4].mean_similarity == pytest.approx(0.75)


def test_bins_of_nothing_are_none_at_all():
    nothing = np.zeros(0)
    assert equal_count_bins(nothing, nothing, nothing) == log_bins(nothing, nothing, nothing) == []
