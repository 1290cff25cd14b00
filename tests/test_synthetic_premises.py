"""Coherence, spark and round trips: dictionaries that are known by hand, and every set of features tried."""

from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from sae_core.architectures import Conventions, create
from sae_core.synthetic.premises import SAMPLED_SETS, mutual_coherence, premises, smallest_singular_value
from sae_core.synthetic.round_trips import (
    best_set_codes,
    round_trip,
    spread_codes,
    through_best_sets,
    through_sae,
    through_truth,
)
from tests.planted_runs import unit


def half_normal(k):
    """Draws codes of k active features, as the data do."""
    return lambda n, seed: np.abs(np.random.default_rng(seed).standard_normal((n, k))) + 1e-3


def dictionary(d_gt, d_in, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((d_gt, d_in)))


def topk(W_dec, k, encoder_scale=1.0):
    """A TopK SAE that reads with the transpose of what it writes."""
    sae = create("topk", W_dec.shape[1], len(W_dec), k=k).requires_grad_(False)
    sae.W_dec.copy_(torch.as_tensor(W_dec))
    sae.W_enc.copy_(encoder_scale * torch.as_tensor(W_dec).T)
    return sae


def codes_for(d, k, n=200, seed=0):
    rng = np.random.default_rng(seed)
    return spread_codes(half_normal(k)(n, seed), d, rng)


def examined(truth, k, saes=None, n_codes=50, seed=0):
    return premises(truth, half_normal(k), k, saes or [topk(truth, k)], n_codes, seed)


# --- coherence --------------------------------------------------------------------------------------------------


def test_coherence_is_the_largest_of_all_pairs():
    truth = dictionary(9, 4)
    expected = max((abs(float(truth[i] @ truth[j])), (i, j)) for i, j in combinations(range(9), 2))
    value, pair = mutual_coherence(truth)
    assert value == pytest.approx(expected[0])
    assert pair == expected[1]


def test_three_directions_in_a_plane_have_half_and_a_bound_of_one_and_a_half():
    truth = np.array([[1, 0], [-0.5, sqrt(3) / 2], [-0.5, -sqrt(3) / 2]])
    found = examined(truth, 1)
    assert found.mutual_coherence == pytest.approx(0.5)
    assert found.coherence_bound == pytest.approx(1.5)
    assert found.smallest_singular_value == pytest.approx(sqrt(0.5))  # of two rows: sqrt(1 - cosine)
    assert (found.spark_condition, found.n_sets, found.all_sets) == (True, 3, True)


def test_opposite_features_are_as_coherent_as_equal_ones():
    assert mutual_coherence(np.array([[1.0, 0], [-1, 0], [0, 1]])) == (1, (0, 1))


# --- spark ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_smallest_singular_value_is_that_of_all_sets(k):
    truth = dictionary(8, 6)
    sets = [truth[list(rows)] for rows in combinations(range(8), 2 * k)]
    # Squared, it is the smallest eigenvalue of a set's Gram matrix.
    expected = min(np.linalg.eigvalsh(rows @ rows.T)[0] for rows in sets)
    found = smallest_singular_value(truth, 2 * k, mutual_coherence(truth)[1], seed=0)
    assert found == (pytest.approx(sqrt(expected)), len(sets), True)


def test_a_feature_between_two_others_makes_the_spark_three():
    truth = np.concatenate([np.eye(7)[:6], unit(np.eye(7)[:1] + np.eye(7)[1:2])])
    assert examined(truth, 1).spark_condition is True  # any two are independent
    found = examined(truth, 2)  # of any four, three may be dependent
    assert found.spark_condition is False
    assert found.smallest_singular_value == 0
    assert found.n_sets == comb(7, 4)
    ranks = [np.linalg.matrix_rank(truth[list(rows)]) for rows in combinations(range(7), 4)]
    assert min(ranks) == 3


def test_more_features_than_dimensions_are_dependent_and_no_set_needs_to_be_looked_at():
    found = examined(dictionary(60, 5), 3)
    assert (found.smallest_singular_value, found.spark_condition) == (0, False)
    assert (found.n_sets, found.all_sets) == (comb(60, 6), True)


def test_many_sets_are_sampled_and_then_nothing_is_proven():
    truth = dictionary(40, 30)
    found = examined(truth, 3)
    assert found.spark_condition is None
    assert found.all_sets is False
    assert 0.99 * SAMPLED_SETS <= found.n_sets <= SAMPLED_SETS
    assert 0 < found.smallest_singular_value < 1
    assert found == examined(truth, 3)
    assert found.smallest_singular_value != examined(truth, 3, seed=1).smallest_singular_value


@pytest.mark.parametrize(("d_gt", "all_sets"), [(8, True), (300, False)])
def test_a_duplicate_among_the_true_features_is_found(d_gt, all_sets):
    truth = dictionary(d_gt, 10).astype(np.float32)
    truth[-1] = -truth[3]
    found = examined(truth, 2)
    assert found.mutual_coherence == pytest.approx(1)
    assert found.coherence_bound == pytest.approx(1)
    assert (found.smallest_singular_value, found.spark_condition, found.all_sets) == (0, False, all_sets)


# --- orthogonal features ----------------------------------------------------------------------------------------


def test_orthogonal_features_meet_every_premise():
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    found = examined(rotation, 2)
    assert found.mutual_coherence == pytest.approx(0, abs=1e-12)
    assert found.coherence_bound == 7  # any number of the six may be active
    assert found.smallest_singular_value == pytest.approx(1)
    assert found.spark_condition is True
    for way in (found.truth, found.truth_exhaustive, found.learned):
        assert (way.n_codes, way.same_support, way.error) == (50, 1, pytest.approx(0, abs=1e-6))


def test_features_that_are_all_active_and_independent_have_no_more_sets_than_one():
    found = examined(np.eye(5)[:3], 3, [topk(np.eye(5), 3)])
    assert (found.n_sets, found.all_sets, found.spark_condition) == (1, True, True)
    assert found.mutual_coherence == 0


# --- round trips ------------------------------------------------------------------------------------------------


def test_a_round_trip_counts_equal_supports_and_the_median_error():
    codes = torch.tensor([[3.0, 4, 0], [0, 0, 2], [1, 0, 0]])
    back = torch.tensor([[3.0, 4, 0], [0, 0, 1], [1, 1, 0]])
    found = round_trip(lambda x: back, lambda f: f, codes)
    assert found.same_support == pytest.approx(2 / 3)
    assert found.error == pytest.approx(0.5)  # of 0, 1/2 and 1
    assert found.n_codes == 3


@pytest.mark.parametrize("codes", [torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[1.0, -1]])])
def test_codes_without_anything_to_compare_are_refused(codes):
    with pytest.raises(ValueError, match="codes must not be negative and must have an active feature each"):
        round_trip(lambda x: x, lambda f: f, codes)


def test_the_transpose_fails_where_the_best_set_succeeds():
    truth = torch.from_numpy(dictionary(12, 8))
    codes = codes_for(12, 3)
    linear, best = through_truth(truth, 3, codes), through_best_sets(truth, 3, codes)
    assert linear.same_support < 0.5
    assert linear.error > 0.1
    assert best.same_support == 1
    assert best.error == pytest.approx(0, abs=1e-9)


def test_the_transpose_keeps_the_largest_positive_products():
    truth = dictionary(10, 4)
    codes = codes_for(10, 2)
    products = np.maximum(codes.numpy() @ truth @ truth.T, 0)
    expected = np.where(products >= np.sort(products, axis=1)[:, -2:-1], products, 0)
    error = np.linalg.norm(expected - codes.numpy(), axis=1) / np.linalg.norm(codes.numpy(), axis=1)
    found = through_truth(torch.from_numpy(truth), 2, codes)
    assert found.error == pytest.approx(np.median(error))
    assert found.same_support == ((expected > 0) == (codes.numpy() > 0)).all(axis=1).mean()


def test_the_best_set_is_the_best_of_all_sets_with_codes_that_are_not_negative():
    truth, x = dictionary(7, 4), np.random.default_rng(1).standard_normal((60, 4))
    found = best_set_codes(torch.from_numpy(x), torch.from_numpy(truth), 2).numpy()
    for sample, code in zip(x, found, strict=True):
        best, least = np.zeros(7), np.inf
        for rows in map(list, combinations(range(7), 2)):
            solution, _, _, _ = np.linalg.lstsq(truth[rows].T, sample)
            residual = np.linalg.norm(sample - solution @ truth[rows])
            if (solution >= 0).all() and residual < least:
                best, least = np.zeros(7), residual
                best[rows] = solution
        assert code == pytest.approx(best, abs=1e-9)


def test_of_sparse_samples_the_best_set_is_that_of_the_best_least_squares_without_negative_codes():
    truth, codes = dictionary(9, 6), codes_for(9, 2, n=30).numpy()
    found = best_set_codes(torch.from_numpy(codes @ truth), torch.from_numpy(truth), 2).numpy()
    for sample, code in zip(codes @ truth, found, strict=True):
        fits = {rows: nnls(truth[list(rows)].T, sample) for rows in combinations(range(9), 2)}
        best = min(fits, key=lambda rows: fits[rows][1])
        assert code[list(best)] == pytest.approx(fits[best][0])
        assert np.delete(code, list(best)).max() == 0
    assert found == pytest.approx(codes)


def test_a_sample_that_no_set_admits_has_no_active_feature():
    axes = torch.eye(3, dtype=torch.float64)
    assert best_set_codes(-torch.ones(1, 3, dtype=torch.float64), axes, 2).tolist() == [[0, 0, 0]]


def test_chunks_change_nothing(monkeypatch):
    truth, x = (
        torch.from_numpy(dictionary(8, 5)),
        torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(),
    )
    whole = best_set_codes(x, truth, 3)
    monkeypatch.setattr("sae_core.synthetic.round_trips._ENTRIES", 600)
    assert best_set_codes(x, truth, 3).numpy() == pytest.approx(whole.numpy(), abs=1e-9)


def test_with_too_many_sets_the_best_is_not_looked_for():
    assert comb(34, 3) <= 6000 < comb(35, 3)
    assert through_best_sets(torch.from_numpy(dictionary(34, 8)), 3, codes_for(34, 3, n=5)) is not None
    assert through_best_sets(torch.from_numpy(dictionary(35, 8)), 3, codes_for(35, 3, n=5)) is None


def test_where_codes_are_not_unique_even_the_best_set_is_wrong():
    truth = dictionary(8, 2)
    found = examined(truth, 2, n_codes=200)
    assert found.spark_condition is False
    assert found.truth_exhaustive.same_support < 0.9


# --- trained SAEs -----------------------------------------------------------------------------------------------


def test_an_sae_with_long_decoder_rows_gets_samples_of_the_same_size():
    axes, values = np.eye(6), half_normal(2)(40, 0)
    long = topk(4 * axes, 2, encoder_scale=1 / 16)
    found = through_sae(long, values, np.random.default_rng(0))
    assert (found.same_support, found.error) == (1, pytest.approx(0, abs=1e-6))
    sizes = []
    long.encode = lambda x: (sizes.append(x.norm(dim=1)), torch.zeros(len(x), 6))[1]
    through_sae(long, values, np.random.default_rng(0))
    assert sizes[0].numpy() == pytest.approx(np.linalg.norm(values, axis=1), rel=1e-6)


def test_the_bias_of_a_decoder_is_taken_back_by_the_encoder():
    sae = topk(np.eye(5), 2)
    sae.b_dec.fill_(3.0)
    assert through_sae(sae, half_normal(2)(30, 0), np.random.default_rng(0)).error == pytest.approx(0, abs=1e-5)


def test_a_row_of_zeros_does_no_harm():
    sae = topk(np.diag([1.0, 1, 1, 0]), 1)
    found = through_sae(sae, half_normal(1)(400, 0), np.random.default_rng(0))
    assert found.same_support == pytest.approx(3 / 4, abs=0.1)


def test_the_learned_round_trip_is_the_mean_over_saes():
    whole, blind = topk(np.eye(6), 2), topk(np.eye(6), 2, encoder_scale=0)
    found = examined(np.eye(6), 2, [whole, blind]).learned
    assert (found.same_support, found.error, found.n_codes) == (0.5, pytest.approx(0.5), 50)


def test_every_sae_gets_codes_of_its_own_and_a_seed_gives_the_same_again():
    seen = []

    def recorded(n, seed):
        seen.append(seed)
        return half_normal(2)(n, seed)

    saes = [topk(dictionary(9, 6), 2)] * 2
    first, again, other = (premises(dictionary(9, 6), recorded, 2, saes, 30, seed) for seed in (0, 0, 1))
    assert len(set(seen[:3])) == 3  # the truth and two SAEs
    assert seen[:3] == seen[3:6]
    assert first == again
    assert first.truth != other.truth


def test_codes_are_spread_over_all_features_alike():
    values = np.arange(1.0, 12_001).reshape(-1, 3)
    codes = spread_codes(values, 5, np.random.default_rng(0)).numpy()
    assert np.sort(codes, axis=1)[:, 2:].tolist() == values.tolist()
    assert (codes > 0).mean(axis=0) == pytest.approx(np.full(5, 3 / 5), abs=0.03)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_impossible_premises_are_refused():
    truth, saes = np.eye(4), [topk(np.eye(4), 2)]
    with pytest.raises(ValueError, match="k features are active, of the 4 there are: got k=5"):
        premises(truth, half_normal(5), 5, saes, 10, 0)
    with pytest.raises(ValueError, match="needs at least one code: got n_codes=0"):
        premises(truth, half_normal(2), 2, saes, 0, 0)
    with pytest.raises(ValueError, match="through SAEs needs at least one: got none; pass those that were trained"):
        premises(truth, half_normal(2), 2, [], 10, 0)
    with pytest.raises(ValueError, match="SAE 0 and the ground truth must have the same d_in: got 4 and 3"):
        premises(truth[:, :3][:3], half_normal(2), 2, saes, 10, 0)
    with pytest.raises(ValueError, match=r"expected values of shape \(10, 2\), got \(10, 3\); draw k values a code"):
        premises(truth, half_normal(3), 2, saes, 10, 0)
    with pytest.raises(ValueError, match="the ground truth: row 1 is zero, 2 of 4 rows are"):
        premises(np.diag([1.0, 0, 1, 0]), half_normal(2), 2, saes, 10, 0)
    with pytest.raises(ValueError, match="3 features cannot be active where there are 2; lower k, or take a larger"):
        premises(truth, half_normal(3), 3, [topk(np.eye(4)[:2], 1)], 10, 0)


def test_an_sae_that_undoes_a_normalisation_is_refused():
    sae = create("topk", 4, 8, k=2, conventions=Conventions(normalize="layer_norm"))
    with pytest.raises(ValueError, match="needs its input to decode"):
        through_sae(sae, half_normal(2)(5, 0), np.random.default_rng(0))
