"""Matched pairs in bins of frequency, whose contributions add up to PW-MCC."""

from itertools import combinations

import numpy as np
import pytest

from sae_core.consistency.frequency_bins import BinnedMatches, collect_matches, equal_count_bins, log_bins
from sae_core.consistency.runs import Run
from sae_core.matching import match


def binned(frequency: list[float], cosine: list[float]) -> BinnedMatches:
    return BinnedMatches(np.array(frequency), np.array(cosine), np.full(len(cosine), 1 / len(cosine)))


@pytest.fixture
def matches():
    rng = np.random.default_rng(0)
    frequency = np.where(np.arange(200) % 20 == 0, 0, 10 ** rng.uniform(-5, -1, 200))
    return BinnedMatches(frequency, rng.random(200), np.full(200, 1 / 200))


@pytest.mark.parametrize("bins_of", [log_bins, equal_count_bins])
@pytest.mark.parametrize("n_bins", [1, 5, 12])
def test_contributions_add_up_and_every_match_is_in_one_bin(matches, bins_of, n_bins):
    bins = bins_of(matches, n_bins)
    assert len(bins) == 1 + n_bins
    assert sum(b.contribution for b in bins) == pytest.approx(matches.cosine.mean(), abs=1e-14)
    assert sum(b.n_matches for b in bins) == 200
    assert (bins[0].low, bins[0].high, bins[0].n_matches) == (0, 0, 10)
    for b in bins[1:-1]:
        inside = (matches.frequency >= b.low) & (matches.frequency < b.high)
        assert b.n_matches == inside.sum()
        assert b.mean_cosine == pytest.approx(matches.cosine[inside].mean())
        assert b.sd_cosine == pytest.approx(matches.cosine[inside].std(ddof=1))


def test_bins_by_hand():
    matches = binned([0.1, 0.001, 0.01, 0.1, 0.0], [0.5, 0.9, 0.8, 0.7, 0.1])
    bins = log_bins(matches, 2)
    assert [(b.low, b.n_matches) for b in bins] == [(0, 1), (0.001, 1), (pytest.approx(0.01), 3)]
    assert [b.contribution for b in bins] == pytest.approx([0.02, 0.18, 0.4])
    assert bins[1].sd_cosine is None


def test_equal_count_bins_hold_equally_many(matches):
    assert [b.n_matches for b in equal_count_bins(matches, 5)[1:]] == [38] * 5


def test_equal_frequencies_stay_in_one_bin():
    matches = binned([0.1] * 8 + [0.2, 0.3], [0.5] * 10)
    bins = equal_count_bins(matches, 5)
    assert sum(b.n_matches for b in bins) == 10
    assert max(b.n_matches for b in bins) == 8
    assert len({b.low for b in bins}) == len(bins)
    everything = equal_count_bins(binned([0.1] * 4, [0.5] * 4), 5)
    assert [(b.low, b.high, b.n_matches) for b in everything] == [(0.1, 0.1, 4)]


def test_one_frequency_makes_one_log_bin():
    assert [(b.low, b.high, b.n_matches) for b in log_bins(binned([0.1] * 4, [0.5] * 4), 5)] == [(0.1, 0.1, 4)]


@pytest.mark.parametrize("bins_of", [log_bins, equal_count_bins])
def test_when_nothing_fired_there_is_only_the_bin_of_the_dead(bins_of):
    bins = bins_of(binned([0.0, 0.0], [0.5, 0.7]), 5)
    assert [(b.n_matches, b.contribution) for b in bins] == [(2, pytest.approx(0.6))]


def test_a_match_has_the_frequency_of_its_rarer_feature_and_pairs_of_runs_count_equally():
    rng = np.random.default_rng(0)
    runs = [Run(str(n), rng.standard_normal((n, 6)), rng.uniform(0.01, 0.5, n)) for n in (20, 30, 25)]
    matchings = {(a, b): match(runs[a].W_dec, runs[b].W_dec) for a, b in combinations(range(3), 2)}
    found = collect_matches(runs, matchings)
    first = matchings[0, 1]
    expected = np.minimum(runs[0].frequency[first.left], runs[1].frequency[first.right])
    assert found.frequency[:20] == pytest.approx(expected)
    pw_mcc = np.mean([matching.mcc for matching in matchings.values()])
    assert (found.cosine * found.weight).sum() == pytest.approx(pw_mcc, abs=1e-14)


def test_without_the_frequencies_of_all_runs_there_are_no_bins():
    runs = [Run("a", np.eye(2), np.ones(2)), Run("b", np.eye(2))]
    assert collect_matches(runs, {(0, 1): match(np.eye(2), np.eye(2))}) is None
