"""The memory-bounded assignment: its lists cut so short that certificates fail and pairs must be added."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_core.matching import candidate_pairs, sparse_assignment
from sae_core.matching.score_sources import CoarseUnitRows, UnitRows
from sae_core.matching.sparse_assignment import assign


def unit(W: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(W / np.linalg.norm(W, axis=1, keepdims=True)).float()


def exact(a: torch.Tensor, b: torch.Tensor, signed: bool) -> float:
    score = (a.double() @ b.double().T).numpy()
    score = score if signed else np.abs(score)
    return float(score[linear_sum_assignment(score, maximize=True)].mean())


def value(found: sparse_assignment.Assignment, a: torch.Tensor, b: torch.Tensor, signed: bool) -> float:
    cosine = (a[found.left].double() * b[found.right].double()).sum(dim=1)
    return float((cosine if signed else cosine.abs()).mean())


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_a=st.integers(1, 90),
    n_b=st.integers(1, 90),
    d=st.integers(1, 10),
    n_distinct=st.sampled_from([1, 2, 5, 1000]),
    levels=st.sampled_from([None, 1, 2]),
    signed=st.booleans(),
    row_candidates=st.integers(2, 5),
    column_candidates=st.integers(2, 4),
    source=st.sampled_from([UnitRows, CoarseUnitRows]),
)
def test_short_lists_still_give_the_optimum(
    seed, n_a, n_b, d, n_distinct, levels, signed, row_candidates, column_candidates, source
):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n_a, d)), rng.standard_normal((n_b, d))
    b = b[rng.integers(0, min(n_b, n_distinct), n_b)]
    if levels is not None:  # few distinct values: many exact ties
        a, b = np.round(a * levels) / levels, np.round(b * levels) / levels
        a[~a.any(axis=1), 0] = b[~b.any(axis=1), 0] = 1.0
    a, b = unit(a), unit(b)
    found = assign(source(a, b, signed), row_candidates=row_candidates, column_candidates=column_candidates)
    assert len(set(found.left)) == len(set(found.right)) == min(n_a, n_b)
    assert found.gap <= 1e-6
    assert value(found, a, b, signed) == pytest.approx(exact(a, b, signed), abs=1e-6)
    check_largest(found, source(a, b, signed).block(slice(0, n_a)).astype(np.float64))


def check_largest(found: sparse_assignment.Assignment, score: np.ndarray) -> None:
    """Largest scores, where they are, and the largest apart from the partner's: not only among those listed."""
    rows, columns = np.arange(len(score)), np.arange(score.shape[1])
    np.testing.assert_allclose(found.best_left, score.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.best_right, score.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(score[rows, found.nearest_left], score.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(score[found.nearest_right, columns], score.max(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.score, score[found.left, found.right], atol=1e-6)
    score[found.left, found.right] = -np.inf
    for alternative, best in (
        (found.alternative_left, score.max(axis=1)[found.left]),
        (found.alternative_right, score.max(axis=0)[found.right]),
    ):
        np.testing.assert_allclose(alternative, np.where(np.isfinite(best), best, np.nan), atol=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_rough_scores_that_cannot_tell_features_apart_change_nothing(noise):
    # All cosines of a row lie within the rounding of bfloat16, so that the lists alone would say little.
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 16))
    a, b = (unit(shared + noise * rng.standard_normal((n, 16))) for n in (300, 310))
    found = assign(CoarseUnitRows(a, b), row_candidates=2, column_candidates=2)
    assert value(found, a, b, False) == pytest.approx(exact(a, b, False), abs=1e-6)
    assert found.gap <= 1e-6
    check_largest(found, UnitRows(a, b).block(slice(0, 300)).astype(np.float64))


def test_rounds_are_needed_when_lists_are_short_and_none_when_they_are_long():
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((400, 6))), unit(rng.standard_normal((400, 6)))
    short = assign(UnitRows(a, b), row_candidates=2, column_candidates=2)
    long = assign(UnitRows(a, b), row_candidates=100, column_candidates=50)
    assert short.n_rounds > 1 == long.n_rounds
    assert short.n_edges < long.n_edges
    np.testing.assert_array_equal(short.right, long.right)


def test_a_solver_stopped_early_brackets_the_optimum(monkeypatch):
    monkeypatch.setattr(sparse_assignment, "_MAX_ROUNDS", 1)
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((400, 6))), unit(rng.standard_normal((400, 6)))
    found = assign(UnitRows(a, b), row_candidates=2, column_candidates=2)
    low, best = value(found, a, b, False), exact(a, b, False)
    assert found.gap > 1e-6
    assert low < best - 1e-7
    assert best <= low + found.gap + 1e-7


@pytest.mark.parametrize("n_b", [500, 540, 1200])
def test_the_bound_of_a_solver_stopped_early_holds_for_rectangles(monkeypatch, n_b):
    monkeypatch.setattr(sparse_assignment, "_MAX_ROUNDS", 1)
    rng = np.random.default_rng(n_b)
    for _ in range(5):
        a, b = unit(rng.standard_normal((500, 5))), unit(rng.standard_normal((n_b, 5)))
        found = assign(UnitRows(a, b), row_candidates=2, column_candidates=2)
        assert value(found, a, b, False) - 1e-7 <= exact(a, b, False) <= value(found, a, b, False) + found.gap + 1e-7


def test_lists_that_allow_no_complete_matching_are_completed():
    # All rows agree on their favourite columns, so most rows find theirs taken.
    rng = np.random.default_rng(0)
    a = unit(np.repeat(rng.standard_normal((1, 8)), 200, axis=0))
    b = unit(rng.standard_normal((230, 8)))
    found = assign(UnitRows(a, b), row_candidates=3, column_candidates=2)
    best = np.sort(np.abs((a[0] @ b.T).numpy()))[-200:]
    assert value(found, a, b, False) == pytest.approx(best.mean(), abs=1e-6)
    assert found.gap <= 1e-6


def test_many_equal_rows_do_not_fill_the_memory():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 16))
    a = unit(np.concatenate([np.repeat(shared, 600, axis=0), rng.standard_normal((900, 16))]))
    b = unit(np.concatenate([np.repeat(shared, 500, axis=0), rng.standard_normal((1000, 16))]))
    found = assign(UnitRows(a, b))
    assert value(found, a, b, False) == pytest.approx(exact(a, b, False), abs=1e-6)
    assert found.n_edges < 0.35 * len(a) * len(b)


def test_blocks_of_the_product_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((700, 8))), unit(rng.standard_normal((650, 8)))
    whole = assign(UnitRows(a, b))
    monkeypatch.setattr(candidate_pairs, "BLOCK_ENTRIES", 1000)
    monkeypatch.setattr(candidate_pairs, "LEAST_BLOCK_ROWS", 37)
    np.testing.assert_array_equal(assign(UnitRows(a, b)).right, whole.right)


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((600, 8))), unit(rng.standard_normal((650, 8)))
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            found.append(assign(UnitRows(a, b), row_candidates=3, column_candidates=2))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].right, found[1].right)
    assert found[0].n_edges == found[1].n_edges


def test_a_tolerance_below_rounding_ends_and_says_so():
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((300, 40))), unit(rng.standard_normal((300, 40)))
    found = assign(UnitRows(a, b), tolerance=0.0, row_candidates=2, column_candidates=2)
    assert found.gap < 1e-6
    assert found.gap == 0 or "rounding keeps the gap above the tolerance of 0" in found.stopped
    assert value(found, a, b, False) == pytest.approx(exact(a, b, False), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("source", [UnitRows, CoarseUnitRows])
@pytest.mark.parametrize("signed", [False, True])
def test_thousands_of_small_problems_of_all_kinds_are_solved_as_by_scipy(source, signed):
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        n_a, n_b, d, n_distinct = (int(rng.integers(1, high)) for high in (60, 60, 9, 60))
        a, b = rng.standard_normal((n_a, d)), rng.standard_normal((n_b, d))
        if seed % 4 == 1:  # duplicates, within each and across both
            a, b = a[rng.integers(0, min(n_a, n_distinct), n_a)], b[rng.integers(0, min(n_b, n_distinct), n_b)]
            b[: min(n_a, n_b) // 2] = a[: min(n_a, n_b) // 2]
        elif seed % 4 == 2:  # few values, many ties
            a, b = np.sign(np.round(a)), np.sign(np.round(b))
            a[~a.any(axis=1), 0] = b[~b.any(axis=1), 0] = 1.0
        elif seed % 4 == 3:  # one row and small changes of it
            a, b = a[:1] + 1e-4 * a, a[:1] + 1e-4 * b
        a, b = unit(a), unit(b)
        found = assign(source(a, b, signed), row_candidates=2, column_candidates=2)
        assert len(set(found.left)) == len(set(found.right)) == min(n_a, n_b)
        assert value(found, a, b, signed) == pytest.approx(exact(a, b, signed), abs=1e-6), seed
        assert found.gap <= 1e-6, seed


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.67])
def test_at_real_size_it_gives_the_matching_of_scipy(share):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4096, 256)), rng.standard_normal((4000, 256))
    n_shared = int(share * 4000)
    b[:n_shared] = a[:n_shared] + 0.7 * b[:n_shared]
    a, b = unit(a), unit(rng.permutation(b))
    found = assign(UnitRows(a, b))
    score = (a.double() @ b.double().T).abs().numpy()
    left, right = linear_sum_assignment(score, maximize=True)
    np.testing.assert_array_equal(found.left, left)
    np.testing.assert_array_equal(found.right, right)
    assert found.gap <= 1e-6
