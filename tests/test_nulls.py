"""Chance levels, each against a simulation or a formula of its own."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sae_core.consistency.nulls import (
    chance_corrected,
    null_mcc,
    null_mmcs,
    second_moment_matchings,
    second_moment_null,
    sign_flip_matchings,
    sign_flip_null,
)
from sae_core.matching import match


def random_cosines(rng: np.random.Generator, n: int, m: int, d: int) -> np.ndarray:
    a, b = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    return np.abs((a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T)


def simulated_mcc(rng: np.random.Generator, n: int, m: int, d: int, draws: int) -> float:
    values = []
    for _ in range(draws):
        cosines = random_cosines(rng, n, m, d)
        values.append(cosines[linear_sum_assignment(cosines, maximize=True)].mean())
    return float(np.mean(values))


@pytest.mark.parametrize(("n", "d"), [(256, 32), (256, 64), (256, 576), (512, 128), (1024, 64)])
def test_the_fitted_isotropic_null_is_what_random_dictionaries_score(n, d):
    rng = np.random.default_rng(n + d)
    assert null_mcc(n, d) == pytest.approx(simulated_mcc(rng, n, n, d, max(2, 1500 // n)), abs=0.002)


@pytest.mark.parametrize(("n", "m", "d"), [(16, 16, 8), (1, 4, 5), (30, 50, 10), (300, 300, 4)])
def test_the_simulated_isotropic_null_is_what_random_dictionaries_score(n, m, d):
    rng = np.random.default_rng(n + m + d)
    assert null_mcc(n, d, m) == pytest.approx(simulated_mcc(rng, n, m, d, max(4, 6000 // n)), abs=0.006)


@pytest.mark.parametrize(
    ("n", "d", "published"), [(16, 8, 0.630), (1024, 64, 0.4008), (4096, 640, 0.1454), (16384, 768, 0.1447)]
)
def test_the_isotropic_null_is_near_measured_values(n, d, published):
    assert null_mcc(n, d) == pytest.approx(published, abs=0.002)


def test_one_pair_of_directions_in_three_dimensions_has_mean_absolute_cosine_one_half():
    # |cos| is uniform on [0, 1] on the sphere.
    assert null_mcc(1, 3) == pytest.approx(0.5, abs=1e-9)
    assert null_mmcs(1, 3) == pytest.approx(0.5, abs=1e-9)
    # The largest of n uniform numbers.
    assert null_mmcs(9, 3) == pytest.approx(0.9, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(1, 2), (20, 8), (1000, 64), (3000, 576)])
def test_the_mmcs_null_is_what_random_dictionaries_score(n, d):
    rng = np.random.default_rng(n + d)
    values = [random_cosines(rng, 400, n, d).max(axis=1).mean() for _ in range(20)]
    assert null_mmcs(n, d) == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(20) + 1e-4)


def test_the_mmcs_null_is_above_the_mcc_null():
    assert null_mmcs(1024, 64) > null_mcc(1024, 64)


def test_in_one_dimension_everything_is_equal():
    assert null_mcc(5, 1) == null_mmcs(5, 1) == 1.0


def test_the_simulated_null_depends_on_its_seed_alone():
    assert null_mcc(64, 4, seed=1) == null_mcc(64, 4, seed=1) != null_mcc(64, 4, seed=2)


def test_sign_flipped_dictionaries_keep_gram_matrix_and_second_moment(monkeypatch):
    rng = np.random.default_rng(0)
    b = rng.standard_normal((40, 12)) * np.geomspace(1, 0.05, 12)
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    flipped = []
    monkeypatch.setattr("sae_core.consistency.nulls.match", lambda W_a, W_b, **_: flipped.append(W_b.numpy()))
    list(sign_flip_matchings(rng.standard_normal((40, 12)), b, n_draws=3, seed=0))
    assert len(flipped) == 3
    for other in flipped:
        np.testing.assert_allclose(other @ other.T, unit @ unit.T, atol=1e-12)
        np.testing.assert_allclose(other.T @ other, unit.T @ unit, atol=1e-12)
        assert not np.allclose(other, unit)
    assert not np.allclose(flipped[0], flipped[1])


def test_the_sign_flip_null_is_the_mean_over_sign_vectors():
    # Two dimensions have four sign vectors, of which two and two give the same score: the mean is theirs.
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((6, 2)), rng.standard_normal((6, 2))
    unit = b / np.linalg.norm(b, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(unit.T @ unit)
    by_hand = {match(a, b @ (vectors * signs) @ vectors.T).mcc for signs in ([1, 1], [1, -1])}
    draws = [matching.mcc for matching in sign_flip_matchings(a, b, 64, seed=0)]
    assert set(np.round(draws, 9)) == set(np.round(list(by_hand), 9))
    assert sign_flip_null(a, b, 64, seed=0) == pytest.approx(np.mean(draws))


def test_on_isotropic_dictionaries_both_nulls_agree():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((300, 64)), rng.standard_normal((300, 64))
    assert sign_flip_null(a, b, 8, seed=0) == pytest.approx(null_mcc(300, 64), abs=0.01)


def test_on_anisotropic_dictionaries_only_the_sign_flip_null_equals_unrelated_ones():
    rng = np.random.default_rng(0)
    spread = np.geomspace(1, 0.01, 32)
    a, b, unrelated = (rng.standard_normal((300, 32)) * spread for _ in range(3))
    chance = match(a, unrelated).mcc
    assert sign_flip_null(a, b, 8, seed=0) == pytest.approx(chance, abs=0.03)
    assert null_mcc(300, 32) < chance - 0.2


def test_the_rows_of_the_second_moment_null_have_the_second_moments_of_either_side(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50_000, 4)) * [3, 2, 1, 0.1] + [2, 0, 0, 0], rng.standard_normal((50_000, 4))
    drawn = []
    monkeypatch.setattr("sae_core.consistency.nulls.match", lambda *W, **_: drawn.append([x.numpy() for x in W]))
    list(second_moment_matchings(a, b, n_draws=2, seed=0))
    for W, made in zip((a, b), drawn[0], strict=True):
        unit = W / np.linalg.norm(W, axis=1, keepdims=True)
        np.testing.assert_allclose(made.T @ made / len(made), unit.T @ unit / len(unit), atol=0.02)
    assert not np.allclose(drawn[0][0], drawn[1][0])
    assert not np.allclose(drawn[0][0], drawn[0][1])


def test_on_isotropic_dictionaries_the_second_moment_null_is_the_isotropic_one():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((600, 32)), rng.standard_normal((600, 32))
    assert second_moment_null(a, b, 4, seed=0) == pytest.approx(null_mcc(600, 32), abs=0.01)


def test_on_anisotropic_dictionaries_the_second_moment_null_equals_unrelated_ones():
    rng = np.random.default_rng(0)
    a, b, unrelated = (rng.standard_normal((300, 32)) * np.geomspace(1, 0.01, 32) for _ in range(3))
    chance = match(a, unrelated).mcc
    assert second_moment_null(a, b, 8, seed=0) == pytest.approx(chance, abs=0.05)
    assert null_mcc(300, 32) < chance - 0.15


def test_a_direction_that_all_rows_share_raises_the_second_moment_null_but_not_all_the_way():
    # It comes back as an axis of large spread: rows of either sign and of different size along it.
    rng = np.random.default_rng(0)
    a, b, unrelated = (rng.standard_normal((300, 32)) + 1.0 for _ in range(3))
    assert null_mcc(300, 32) + 0.1 < second_moment_null(a, b, 8, seed=0) < match(a, unrelated).mcc - 0.05


def test_the_second_moment_null_knows_unequal_sizes_and_rows_of_zeros():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 10)), np.concatenate([rng.standard_normal((50, 10)), np.zeros((5, 10))])
    found = list(second_moment_matchings(a, b, 2, seed=0))
    assert [len(draw.left) for draw in found] == [30, 30]
    assert [len(draw.best_right) for draw in found] == [50, 50]
    assert second_moment_null(a, b, 40, seed=0) == pytest.approx(null_mcc(30, 10, 50), abs=0.03)


def test_the_second_moment_null_depends_on_its_seed_alone():
    a = np.random.default_rng(0).standard_normal((20, 6))
    assert second_moment_null(a, a, 2, seed=1) == second_moment_null(a, a, 2, seed=1)
    assert second_moment_null(a, a, 2, seed=1) != second_moment_null(a, a, 2, seed=2)


@pytest.mark.parametrize("null", [sign_flip_null, second_moment_null])
def test_a_null_without_draws_is_refused(null):
    with pytest.raises(ValueError, match="at least one draw"):
        null(np.eye(2), np.eye(2), 0, seed=0)


@pytest.mark.parametrize("null", [null_mcc, null_mmcs])
def test_sizes_that_are_not_positive_are_refused(null):
    with pytest.raises(ValueError, match="must be positive"):
        null(0, 4)


def test_correction_is_one_for_identity_zero_at_chance_and_negative_below():
    assert chance_corrected(1.0, 0.3) == 1.0
    assert chance_corrected(0.3, 0.3) == 0.0
    assert chance_corrected(0.8181, 0.1449) == pytest.approx(0.787, abs=0.0005)  # TopK of Song et al. 2025
    assert chance_corrected(0.1, 0.3) < 0


def test_a_chance_level_of_one_cannot_be_corrected_for():
    with pytest.raises(ValueError, match="below 1"):
        chance_corrected(1.0, 1.0)
