"""Uncertainty over seeds."""

import numpy as np
import pytest
from scipy.stats import t as student_t

from sae_core.statistics import jackknife, pair_mean


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
