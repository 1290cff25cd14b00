"""Size of the stable core against the threshold, the number of seeds, and chance."""

from itertools import combinations

import numpy as np
import pytest

from sae_core.consistency.core_chance import chance_sizes
from sae_core.consistency.core_kernels import core_sizes
from sae_core.consistency.core_sizes import CORE_CURVE_SCHEMA, core_curve, core_summary
from sae_core.consistency.mutual_neighbours import of_subset
from sae_core.consistency.stable_cores import stable_core
from tests.planted_runs import matched, named, planted


def test_the_curve_is_the_mean_core_over_all_subsets_of_runs():
    runs, taus = planted(4, seed=3), [0.8, 0.3, 0.6]
    matchings = matched(runs)
    curve = core_curve(runs, matchings, taus, n_chance_draws=0)
    table = curve.table().to_pylist()
    assert [(row["tau"], row["n_seeds"]) for row in table] == [(t, k) for t in sorted(taus) for k in (2, 3, 4)]
    for row in table:
        subsets = list(combinations(range(4), row["n_seeds"]))
        cores = [stable_core([runs[i] for i in s], of_subset(matchings, s), row["tau"]) for s in subsets]
        assert row["size"] == pytest.approx(np.mean([core.n_core for core in cores]))
        assert row["share"] == pytest.approx(np.mean([core.share for core in cores]))
        assert (row["chance"], row["n_subsets"]) == (None, len(subsets))
    assert curve.table().schema == CORE_CURVE_SCHEMA
    assert curve.chance_at(0.8, 4) is None


def test_a_sample_of_subsets_is_near_all_of_them_and_the_same_every_time():
    runs = planted(7, seed=4)
    matchings = matched(runs)
    everything = core_curve(runs, matchings, [0.6], n_chance_draws=0)
    sample, again = (core_curve(runs, matchings, [0.6], n_subsets=8, n_chance_draws=0) for _ in range(2))
    assert everything.n_subsets.tolist() == [21, 35, 35, 21, 7, 1]
    assert sample.n_subsets.tolist() == [8, 8, 8, 8, 7, 1]
    assert sample.size == pytest.approx(everything.size, rel=0.15)
    assert np.array_equal(sample.size, again.size)
    assert (np.diff(everything.size) < 0).all()


def test_more_runs_than_bits_in_a_word_are_told_apart():
    left, right = np.arange(69), np.arange(1, 70)
    sizes = core_sizes(left, right, np.array([68, 69]), np.arange(70), np.ones(70, bool))
    assert sizes.tolist() == [0, 1]
    # The last node is a second feature of run 66: the component is split.
    twice = np.where(np.arange(70) == 69, 66, np.arange(70))
    assert core_sizes(left, right, np.array([68, 69]), twice, np.ones(69, bool)).tolist() == [1, 0]


def test_unrelated_runs_have_the_core_of_chance():
    rng = np.random.default_rng(0)
    sizes, chance = [], []
    for seed in range(12):
        runs = named(*(rng.standard_normal((100, 6)) for _ in range(3)))
        curve = core_curve(runs, matched(runs), [0.7, 0.85], n_chance_draws=4, seed=seed)
        sizes.append(curve.size)
        chance.append(curve.chance)
    # 0.7 with 2 and 3 seeds, 0.85 with 2 and 3
    error = np.std(np.array(sizes) - np.array(chance), axis=0) / np.sqrt(12)
    assert (np.mean(sizes, axis=0) > [40, 8, 30, 5]).all()
    assert (np.abs(np.mean(sizes, axis=0) - np.mean(chance, axis=0)) < 4 * error + 0.5).all()


def test_shared_features_are_far_above_chance_and_chance_does_not_see_them():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((60, 24))
    runs = named(*(shared[rng.permutation(60)] + 0.2 * rng.standard_normal((60, 24)) for _ in range(4)))
    curve = core_curve(runs, matched(runs), [0.8])
    assert curve.size.tolist() == [60, 60, 60]
    assert (curve.chance < [1, 0.1, 0.1]).all()


def test_duplicates_and_anisotropy_stay_in_the_chance_level():
    # All features lie near one axis: that they resemble each other across runs says nothing.
    rng = np.random.default_rng(2)
    runs = named(*(rng.standard_normal((80, 8)) * [30, 1, 1, 1, 1, 1, 1, 1] for _ in range(3)))
    curve = core_curve(runs, matched(runs), [0.95])
    assert curve.size[1] > 5
    assert curve.chance == pytest.approx(curve.size, rel=0.5)


def test_chance_is_the_same_for_the_same_seed_and_says_what_it_does():
    runs, seen = planted(3, 0, d=5), []
    first, again, other = (chance_sizes(runs, [0.6], seed=seed, n_draws=3) for seed in (1, 1, 2))
    chance_sizes(runs, [0.6], n_draws=2, progress=lambda done, total, text: seen.append((done, total, text)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert seen[0] == (0, 6, "stable core by chance, draw 1 of 2")
    assert all(done < total for done, total, _ in seen)
    assert np.isnan(chance_sizes(runs, [0.6], n_draws=0)).all()


def test_the_summary_says_what_the_cores_and_the_curve_say():
    runs, taus = planted(3, seed=6), [0.5, 0.7, 0.9]
    matchings = matched(runs)
    cores, curve = [stable_core(runs, matchings, tau) for tau in taus], core_curve(runs, matchings, taus)
    summary = core_summary(cores, curve)
    assert (summary.n_runs, summary.n_features) == (3, min(len(run.W_dec) for run in runs))
    for level, core in zip(summary.levels, cores, strict=True):
        at = (curve.tau == core.tau) & (curve.n_seeds == 3)
        assert (level.n_core, level.share) == (core.n_core, core.share) == (curve.size[at], curve.share[at])
        assert level.chance == curve.chance[at]
    assert core_summary(cores).levels[0].chance is None


def test_thresholds_that_are_none_are_refused():
    runs = planted(3, 0)
    matchings = matched(runs)
    with pytest.raises(ValueError, match=r"above 0 and at most 1: got 70\.0"):
        core_curve(runs, matchings, [0.5, 70.0])
    with pytest.raises(ValueError, match="a curve needs at least one threshold: got none"):
        core_curve(runs, matchings, [])
    with pytest.raises(ValueError, match="a summary needs the core at one threshold at least"):
        core_summary([])
