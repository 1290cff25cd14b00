"""The matching of two dictionaries: exact against scipy and brute force, invariant, and honest about its bound."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_core.matching import Matching, match, rows_with_direction, unit_rows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def scores(a: np.ndarray, b: np.ndarray, signed: bool) -> np.ndarray:
    cosines = unit(a) @ unit(b).T
    return cosines if signed else np.abs(cosines)


def scipy_mcc(a: np.ndarray, b: np.ndarray, signed: bool = False) -> float:
    score = scores(a, b, signed)
    return float(score[linear_sum_assignment(score, maximize=True)].mean())


def check(found: Matching, a: np.ndarray, b: np.ndarray) -> None:
    """Everything a matching says about two dictionaries without rows of zeros, against plain numpy."""
    score = scores(a, b, found.signed)
    n = min(len(a), len(b))
    assert len(set(found.left)) == len(set(found.right)) == len(found.left) == n
    np.testing.assert_array_equal(found.left, np.sort(found.left))
    np.testing.assert_allclose(found.cosine, (unit(a)[found.left] * unit(b)[found.right]).sum(axis=1), atol=1e-12)
    assert found.mcc == pytest.approx(scipy_mcc(a, b, found.signed), abs=1e-6)
    assert found.certified
    assert found.upper_bound == found.mcc
    np.testing.assert_allclose(found.best_left, score.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.best_right, score.max(axis=0), atol=1e-6)
    for ours, nearest, best in ((score, found.nearest_left, 1), (score.T, found.nearest_right, 0)):
        np.testing.assert_allclose(ours[np.arange(len(ours)), nearest], score.max(axis=best), atol=1e-6)
    score[found.left, found.right] = -np.inf
    for alternative, best in (
        (found.alternative_left, score.max(axis=1)[found.left]),
        (found.alternative_right, score.max(axis=0)[found.right]),
    ):
        np.testing.assert_allclose(alternative, np.where(np.isfinite(best), best, np.nan), atol=1e-6)


def test_the_hand_example():
    found = match(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.1, 1.0], [1.0, 0.2]]))
    assert found.mcc == pytest.approx((1 / np.sqrt(1.01) + 1 / np.sqrt(1.04)) / 2)
    assert found.mcc == pytest.approx(0.98781, abs=5e-6)
    assert found.right.tolist() == [1, 0]


@pytest.mark.parametrize("method", ["dense", "sparse"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_mean_is_the_best_of_all_permutations(rng, method, signed):
    for n_a, n_b in [(1, 1), (2, 5), (5, 5), (6, 4)]:
        a, b = rng.standard_normal((n_a, 3)), rng.standard_normal((n_b, 3))
        score = scores(a, b, signed)
        score = score if n_a <= n_b else score.T
        best = max(
            score[np.arange(len(score)), list(p)].mean() for p in permutations(range(score.shape[1]), len(score))
        )
        assert match(a, b, signed, method=method).mcc == pytest.approx(best, abs=1e-6)


def test_permuting_flipping_and_scaling_features_changes_nothing(rng):
    W = rng.standard_normal((32, 8))
    order, sign = rng.permutation(32), rng.choice([-1.0, 1.0], (32, 1))
    assert match(W, (3 * sign * W)[order]).mcc == pytest.approx(1)
    np.testing.assert_array_equal(match(W, W[order]).left, order[match(W, W[order]).right])


def test_rotating_both_dictionaries_changes_nothing(rng):
    a, b = rng.standard_normal((20, 8)), rng.standard_normal((30, 8))
    rotation, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    assert match(a @ rotation, b @ rotation).mcc == pytest.approx(match(a, b).mcc)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_swapping_the_dictionaries_swaps_the_matching(rng, method):
    a, b = rng.standard_normal((40, 8)), rng.standard_normal((70, 8))
    there, back = match(a, b, method=method), match(b, a, method=method)
    assert there.mcc == pytest.approx(back.mcc, abs=1e-7)
    assert set(zip(there.left, there.right, strict=True)) == set(zip(back.right, back.left, strict=True))
    np.testing.assert_allclose(there.best_left, back.best_right, atol=1e-12)
    check(there, a, b)
    check(back, b, a)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_mcc_is_at_most_the_mean_largest_cosine(rng, method):
    a, b = rng.standard_normal((40, 8)), rng.standard_normal((70, 8))
    for other in (b, np.concatenate([a, b])):
        found = match(a, other, method=method)
        assert found.mcc <= found.best_left.mean()


def test_signed_and_absolute_optima_differ_for_flipped_features(rng):
    W = rng.standard_normal((10, 12))
    assert match(W, -W).mcc == pytest.approx(1)
    assert (match(W, -W).cosine < 0).all()
    assert match(W, -W, signed=True).mcc < 0.7
    assert match(W, W, signed=True).mcc == pytest.approx(1)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_rows_of_zeros_are_left_out_and_counted(rng, method):
    a, b = rng.standard_normal((30, 6)), rng.standard_normal((40, 6))
    padded = np.zeros((35, 6))
    places = np.sort(rng.permutation(35)[:30])
    padded[places] = a
    found, plain = match(padded, b, method=method), match(a, b, method=method)
    assert (found.n_excluded_left, found.n_excluded_right) == (5, 0)
    assert found.mcc == plain.mcc
    np.testing.assert_array_equal(found.left, places[plain.left])
    assert np.isnan(found.best_left).sum() == 5
    np.testing.assert_array_equal(found.best_left[places], plain.best_left)
    assert (found.nearest_left == -1).sum() == 5
    np.testing.assert_array_equal(found.nearest_left[places], plain.nearest_left)
    np.testing.assert_array_equal(found.nearest_right, places[plain.nearest_right])
    assert match(b, padded, method=method).n_excluded_right == 5


def test_the_margin_is_the_cosine_minus_the_best_alternative():
    found = match(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert found.margin_left == pytest.approx([1 - 0.6, 0.8 - 0.0])
    assert found.margin_right == pytest.approx([1 - 0.0, 0.8 - 0.6])


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_of_equally_near_rows_the_first_is_named(method):
    W = np.repeat(np.eye(4), 60, axis=0)
    found = match(W, W[::-1].copy(), method=method)
    np.testing.assert_array_equal(found.nearest_left, np.repeat([180, 120, 60, 0], 60))
    np.testing.assert_array_equal(found.nearest_right, found.nearest_left)


def test_a_single_pair_has_no_alternative():
    found = match(np.array([[1.0, 1.0]]), np.array([[1.0, 0.0]]), method="sparse")
    assert found.mcc == pytest.approx(np.sqrt(0.5))
    assert np.isnan(found.margin_left).all()
    assert np.isnan(found.margin_right).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_any_floating_dtype_gives_the_cosines_of_the_values_it_holds(rng, dtype, method):
    a, b = (torch.from_numpy(rng.standard_normal((40, 6))).to(dtype) for _ in range(2))
    found = match(a, b, method=method)
    exact = match(a.double().numpy(), b.double().numpy())
    assert found.mcc == pytest.approx(exact.mcc, abs=1e-7)
    np.testing.assert_array_equal(found.right, exact.right)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e300])
def test_tiny_and_huge_rows_have_directions_too(rng, scale):
    W = rng.standard_normal((8, 5))
    assert match(W * scale, W).mcc == pytest.approx(1)


def test_parameters_that_require_gradients_are_accepted(rng):
    W = torch.nn.Parameter(torch.from_numpy(rng.standard_normal((6, 4))))
    assert match(W, W).mcc == pytest.approx(1)


def test_inputs_are_not_changed(rng):
    a, b = torch.from_numpy(rng.standard_normal((6, 4))), torch.from_numpy(rng.standard_normal((7, 4)))
    before = a.clone(), b.clone()
    match(a, b)
    match(a, b, method="sparse")
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_are_read(rng):
    W = rng.standard_normal((6, 4))
    W.setflags(write=False)
    assert match(W, W).mcc == pytest.approx(1)


def test_unit_rows_have_length_one(rng):
    rows = unit_rows(torch.from_numpy(rng.standard_normal((600, 3))), torch.arange(10, 600))
    assert rows.shape == (590, 3)
    np.testing.assert_allclose(rows.norm(dim=1), 1, atol=1e-12)


def test_rows_with_direction_are_those_not_zero():
    assert rows_with_direction(np.array([[0.0, 1.0], [0.0, 0.0], [1e-320, 0.0]]), "run").tolist() == [0, 2]


def test_large_problems_take_the_sparse_way_and_agree_with_scipy(rng, monkeypatch):
    a, b = rng.standard_normal((1200, 24)), rng.standard_normal((1150, 24))
    dense = match(a, b)
    monkeypatch.setattr("sae_core.matching.exact.DENSE_PAIRS", len(a) * len(b) - 1)
    monkeypatch.setattr("sae_core.matching.exact._assign_dense", None)
    check(match(a, b), a, b)
    np.testing.assert_array_equal(match(a, b).right, dense.right)


@st.composite
def dictionaries(draw):
    """Two small dictionaries: random, with duplicates, of few distinct values (many ties), or all one direction."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_a, n_b, d = draw(st.integers(1, 70)), draw(st.integers(1, 70)), draw(st.integers(1, 12))
    made = []
    for n in (n_a, n_b):
        kind = draw(st.sampled_from(["random", "duplicates", "ties", "one direction", "axes"]))
        W = rng.standard_normal((n, d))
        if kind == "duplicates":
            W = W[rng.integers(0, max(1, n // 4), n)] * rng.choice([-2.0, 1.0], (n, 1))
        elif kind == "ties":
            W = rng.integers(-1, 2, (n, d)).astype(float)
            W[~W.any(axis=1), 0] = 1.0
        elif kind == "one direction":
            W[:] = W[0]
        elif kind == "axes":
            W = np.eye(d)[rng.integers(0, d, n)]
        made.append(W)
    return made


@settings(max_examples=150, deadline=None)
@given(dictionaries(), st.booleans())
def test_the_sparse_way_is_exact_on_ties_duplicates_and_rectangles(pair, signed):
    check(match(*pair, signed, method="sparse"), *pair)


@settings(max_examples=50, deadline=None)
@given(dictionaries(), st.booleans())
def test_the_dense_way_is_exact_on_ties_duplicates_and_rectangles(pair, signed):
    found = match(*pair, signed, method="dense")
    assert found.gap == 0
    check(found, *pair)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_by_dictionary_and_row(bad):
    W = np.eye(5)
    W[3, 1] = bad
    with pytest.raises(ValueError, match="seed 2: row 3 is not finite"):
        match(np.eye(5), W, names=("seed 1", "seed 2"))


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match="same d_in: left has 3, right has 4"):
        match(np.eye(3), np.eye(4))


def test_a_dictionary_of_zeros_is_refused():
    with pytest.raises(ValueError, match="right: all 3 rows are zero"):
        match(np.eye(3), np.zeros((3, 3)))


def test_a_dictionary_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"at least one row and one column: got shape \(0, 3\)"):
        match(np.zeros((0, 3)), np.eye(3))
