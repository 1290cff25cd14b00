"""GT-MCC, its chance levels and what is told of every feature; agreement of runs beside it."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment

from sae_core.consistency import Run, chance_corrected, null_mcc, sign_flip_null
from sae_core.synthetic.recovery import recover, seed_correlation
from sae_core.synthetic_config import MeasuresConfig
from tests.planted_runs import named, truth_and_runs, unit

NO_NULL = MeasuresConfig(n_null_draws=0)


def random_runs(n_runs, d_sae, d_gt, d_in=5, seed=0):
    rng = np.random.default_rng(seed)
    truth = unit(rng.standard_normal((d_gt, d_in)))
    return truth, named(*(rng.standard_normal((d_sae, d_in)) for _ in range(n_runs)))


# --- GT-MCC -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_sae", "d_gt"), [(4, 4), (3, 6), (6, 3)])
def test_gt_mcc_is_the_best_of_all_assignments(d_sae, d_gt):
    truth, runs = random_runs(3, d_sae, d_gt)
    expected = []
    for run in runs:
        cosines = np.abs(unit(run.W_dec) @ truth.T)
        short, long = (cosines, d_gt) if d_sae <= d_gt else (cosines.T, d_sae)
        expected.append(max(short[np.arange(len(short)), order].mean() for order in
                            (list(one[: len(short)]) for one in permutations(range(long)))))  # fmt: skip
    found = recover(runs, truth, NO_NULL).summary
    assert found.gt_mcc_by_run == pytest.approx(expected)
    assert found.gt_mcc == pytest.approx(np.mean(expected))


def test_permuting_flipping_and_scaling_features_changes_nothing():
    truth, runs = truth_and_runs(3)
    rng = np.random.default_rng(1)
    changed = named(*(-3 * run.W_dec[rng.permutation(len(run.W_dec))] for run in runs))
    once, again = recover(runs, truth, NO_NULL).summary, recover(changed, -2 * truth[::-1].copy(), NO_NULL).summary
    assert again.gt_mcc_by_run == pytest.approx(once.gt_mcc_by_run)
    assert again.uniqueness == pytest.approx(once.uniqueness)
    assert again.recovered_fraction == pytest.approx(once.recovered_fraction)


def test_the_interval_is_students_over_runs():
    truth, runs = truth_and_runs(5)
    found = recover(runs, truth, NO_NULL).summary
    values = np.array(found.gt_mcc_by_run)
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert (found.gt_ci_low, found.gt_ci_high) == pytest.approx((low, high))


def test_recovered_features_are_counted_among_all_true_ones():
    truth = np.eye(8)
    half = named(truth[:4], truth[2:6])
    assert recover(half, truth, NO_NULL).summary.recovered_fraction == {"0.5": 0.5, "0.7": 0.5, "0.9": 0.5}
    tilted = truth[:4] + 0.75 * truth[4:]  # cosines of 0.8
    found = recover(named(tilted, truth), truth, NO_NULL).summary
    assert found.recovered_fraction == pytest.approx({"0.5": 0.75, "0.7": 0.75, "0.9": 0.5})


def test_uniqueness_counts_different_nearest_true_features():
    truth = np.eye(4)
    twice = np.stack([truth[0], truth[0] + 0.1 * truth[1], truth[2], np.zeros(4)])
    assert recover(named(twice, truth), truth, NO_NULL).summary.uniqueness == pytest.approx((2 / 4 + 1) / 2)


# --- chance -----------------------------------------------------------------------------------------------------


def test_chance_levels_are_those_of_the_very_shape():
    truth, runs = random_runs(3, d_sae=10, d_gt=20, d_in=6)
    measures = MeasuresConfig(n_null_draws=3, seed=7)
    found = recover(runs, truth, measures).summary
    assert found.null_isotropic == null_mcc(10, 6, 20, seed=7)
    seeds = [int(np.random.SeedSequence([7, number]).generate_state(1)[0]) for number in range(3)]
    flipped = [sign_flip_null(run.W_dec, truth, 3, seed) for run, seed in zip(runs, seeds, strict=True)]
    assert found.null_sign_flip == pytest.approx(np.mean(flipped))
    assert found.kappa_isotropic == chance_corrected(found.gt_mcc, found.null_isotropic)
    assert found.kappa_sign_flip == chance_corrected(found.gt_mcc, found.null_sign_flip)


def test_random_runs_are_at_chance_and_the_truth_is_far_above():
    truth, runs = random_runs(8, d_sae=40, d_gt=40, d_in=12)
    at_chance = recover(runs, truth, MeasuresConfig()).summary
    assert at_chance.kappa_isotropic == pytest.approx(0, abs=0.03)
    assert at_chance.kappa_sign_flip == pytest.approx(0, abs=0.03)
    perfect = recover(named(truth, truth[::-1].copy()), truth, MeasuresConfig()).summary
    assert perfect.kappa_isotropic == pytest.approx(1)
    assert perfect.kappa_sign_flip == pytest.approx(1)


def test_every_run_has_draws_of_its_own():
    truth, runs = random_runs(1, d_sae=10, d_gt=10)
    measures = MeasuresConfig(n_null_draws=1)
    same = recover([runs[0], runs[0]], truth, measures).summary
    seed = int(np.random.SeedSequence([0, 0]).generate_state(1)[0])
    assert same.null_sign_flip != sign_flip_null(runs[0].W_dec, truth, 1, seed)
    assert recover([runs[0], runs[0]], truth, measures).summary == same


def test_without_draws_there_is_no_sign_flip_null():
    truth, runs = random_runs(2, d_sae=6, d_gt=6)
    found = recover(runs, truth, NO_NULL).summary
    assert (found.null_sign_flip, found.kappa_sign_flip, found.histogram.null_counts) == (None, None, None)


def test_a_null_of_one_cannot_be_corrected_for():
    # Flipping the axes of a truth that lies on its own principal axes gives the same truth.
    truth = np.diag([1.0, 1.0, 1.0])[[0, 0, 0, 1, 1, 2]]
    found = recover(named(truth, truth), truth, MeasuresConfig()).summary
    assert found.null_sign_flip == pytest.approx(1)
    assert found.kappa_sign_flip is None


def test_the_histogram_holds_every_matched_pair_and_as_many_of_the_null():
    truth, runs = random_runs(3, d_sae=10, d_gt=20)
    found = recover(runs, truth, MeasuresConfig(n_null_draws=4))
    cosines = np.concatenate([matching.score for matching in found.matchings])
    histogram = found.summary.histogram
    assert histogram.counts == np.histogram(cosines, np.linspace(0, 1, 51))[0].tolist()
    assert len(histogram.edges) == 51
    assert sum(histogram.null_counts) == pytest.approx(30)


# --- the table --------------------------------------------------------------------------------------------------


def test_the_table_tells_of_every_feature_what_it_found():
    truth = np.eye(3)
    W = np.stack([[0.0, -2, 0], [0, 0, 0], [3, 0, 4]])
    frequency = np.array([0.5, 0, 0.25])
    table = recover([Run("a", W, frequency), Run("b", np.eye(3))], truth, NO_NULL).table.to_pydict()
    assert table["run"] == ["a"] * 3 + ["b"] * 3
    assert table["feature"] == [0, 1, 2] * 2
    assert table["frequency"] == [0.5, 0, 0.25, None, None, None]
    assert table["truth"] == [1, None, 2, 0, 1, 2]
    assert table["cosine"] == [-1, None, pytest.approx(0.8), 1, 1, 1]
    assert table["nearest_truth"] == [1, None, 2, 0, 1, 2]
    assert table["nearest_cosine"] == [1, None, pytest.approx(0.8), 1, 1, 1]


def test_the_table_and_the_matchings_hold_the_same_pairs():
    truth, runs = random_runs(2, d_sae=12, d_gt=7)
    found = recover(runs, truth, NO_NULL)
    for run, matching in zip(runs, found.matchings, strict=True):
        rows, columns = linear_sum_assignment(np.abs(unit(run.W_dec) @ truth.T), maximize=True)
        assert matching.left.tolist() == rows.tolist()
        assert matching.right.tolist() == columns.tolist()
    table = found.table.to_pydict()
    known = [value for value in table["cosine"] if value is not None]
    assert len(known) == 2 * 7
    assert np.mean(np.abs(known)) == pytest.approx(found.summary.gt_mcc)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_missing_truth_is_refused():
    with pytest.raises(ValueError, match="expected the true dictionary .* got None: only synthetic data have a"):
        recover(named(np.eye(3), np.eye(3)), None, NO_NULL)


def test_a_truth_of_another_width_is_refused():
    with pytest.raises(ValueError, match="seed 1 and the ground truth must have the same d_in: got 4 and 3; pass the"):
        recover(named(np.eye(3), np.eye(4)), np.eye(3), NO_NULL)


def test_a_single_run_is_refused():
    with pytest.raises(ValueError, match="needs at least two of them: got 1; train another seed"):
        recover(named(np.eye(3)), np.eye(3), NO_NULL)


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="in one dimension all directions are the same"):
        recover(named(np.ones((2, 1)), np.ones((2, 1))), np.ones((3, 1)), NO_NULL)


def test_a_broken_run_is_named():
    with pytest.raises(ValueError, match="seed 1: row 0 is not finite"):
        recover(named(np.eye(3), np.full((3, 3), np.nan)), np.eye(3), NO_NULL)


# --- agreement and truth ----------------------------------------------------------------------------------------


def pairs_of(with_others):
    """A matrix of pair values whose rows have these means, up to a constant: each is a sum over its two runs."""
    values = np.add.outer(with_others, with_others)
    np.fill_diagonal(values, np.nan)
    return values


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    pair_mccs, gt_mccs = pairs_of(rng.random(7)), rng.random(7)
    found = seed_correlation(pair_mccs, gt_mccs)
    with_others = np.nanmean(pair_mccs, axis=1)
    assert found.pearson == pytest.approx(stats.pearsonr(with_others, gt_mccs).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(with_others, gt_mccs).statistic)
    assert found.n_runs == 7


def test_the_p_value_of_few_runs_is_the_share_of_all_permutations():
    rng = np.random.default_rng(1)
    for _ in range(3):
        pair_mccs, gt_mccs = pairs_of(rng.random(6)), rng.random(6)
        x = np.nanmean(pair_mccs, axis=1)
        truth = abs(np.corrcoef(x, gt_mccs)[0, 1])
        reached = [abs(np.corrcoef(x, gt_mccs[list(order)])[0, 1]) >= truth - 1e-9 for order in permutations(range(6))]
        assert seed_correlation(pair_mccs, gt_mccs).p_value == pytest.approx(np.mean(reached))


def test_the_p_value_of_many_runs_is_close_to_that_of_the_t_test_and_seeded():
    rng = np.random.default_rng(2)
    x = rng.standard_normal(30)
    pair_mccs, gt_mccs = pairs_of(x), 0.2 * x + rng.standard_normal(30)
    found = seed_correlation(pair_mccs, gt_mccs)
    assert found.p_value == pytest.approx(stats.pearsonr(np.nanmean(pair_mccs, axis=1), gt_mccs).pvalue, abs=0.02)
    assert found == seed_correlation(pair_mccs, gt_mccs)
    assert found.p_value != seed_correlation(pair_mccs, gt_mccs, seed=1).p_value


def test_a_random_p_value_is_never_zero():
    x = np.arange(12.0)
    found = seed_correlation(pairs_of(x), x)
    assert found.pearson == pytest.approx(1)
    assert found.p_value == pytest.approx(1 / 10_001, rel=1e-6)


def test_without_variation_there_is_no_correlation():
    rng = np.random.default_rng(3)
    varying, nothing = rng.random(5), np.full(5, 0.3)
    for found in (seed_correlation(pairs_of(nothing), varying), seed_correlation(pairs_of(varying), nothing + 1e-12)):
        assert (found.pearson, found.spearman, found.p_value, found.n_runs) == (None, None, None, 5)
    two = seed_correlation(pairs_of(varying[:2]), varying[:2])  # both agree equally with the other
    assert two.pearson is None


def test_equal_runs_share_a_rank():
    gt_mccs = np.array([0.1, 0.2, 0.3, 0.4])
    found = seed_correlation(pairs_of(np.array([0.1, 0.7, 0.7, 0.9])), gt_mccs)
    assert found.spearman == pytest.approx(stats.spearmanr([1, 2, 2, 3], gt_mccs).statistic)


def test_pair_values_of_other_runs_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(3, 3\) and 4 GT-MCCs; pass those of the same runs"):
        seed_correlation(np.zeros((3, 3)), np.zeros(4))
