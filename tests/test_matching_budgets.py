"""Matchings that are stopped early: complete, one to one, and inside an honest bracket, wherever they were stopped."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_core.matching import Matching, assignment_budget, candidate_pairs, match, match_scores, sparse_assignment
from sae_core.matching.assignment_budget import Budget
from sae_core.matching.score_sources import CoarseUnitRows, UnitRows


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is one second later whenever it is looked at, and small pieces of work between the looks."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr(assignment_budget, "clock", clock)
    monkeypatch.setattr(candidate_pairs, "BLOCK_ENTRIES", 1 << 11)
    monkeypatch.setattr(candidate_pairs, "LEAST_BLOCK_ROWS", 16)
    monkeypatch.setattr("sae_core.matching.assignment_certificate.BLOCK_ENTRIES", 1 << 11)
    monkeypatch.setattr("sae_core.matching.assignment_certificate.LEAST_BLOCK_ROWS", 16)
    monkeypatch.setattr(sparse_assignment, "_EDGES_AT_ONCE", 50)


def unit(W: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(W / np.linalg.norm(W, axis=1, keepdims=True)).float()


def pair(n_a: int, n_b: int, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_a, d)), rng.standard_normal((n_b, d))


def check_bracket(found: Matching, score: np.ndarray) -> None:
    rows, columns = linear_sum_assignment(score, maximize=True)
    best = score[rows, columns].mean()
    assert len(set(found.left)) == len(set(found.right)) == len(found.left) == min(score.shape)
    np.testing.assert_allclose(found.score, score[found.left, found.right], atol=1e-6)
    assert found.mcc - 1e-7 <= best <= found.upper_bound + 1e-7
    assert found.certified or found.stopped
    n_seen_left, n_seen_right = (np.isfinite(x) for x in (found.best_left, found.best_right))
    assert (found.best_left[n_seen_left] <= score.max(axis=1)[n_seen_left] + 1e-6).all()
    assert (found.best_right[n_seen_right] <= score.max(axis=0)[n_seen_right] + 1e-6).all()
    seen = found.nearest_left >= 0
    assert seen[found.left].all()
    np.testing.assert_allclose(score[np.flatnonzero(seen), found.nearest_left[seen]], found.best_left[seen], atol=1e-6)


@pytest.mark.parametrize(("n_a", "n_b"), [(90, 90), (150, 190), (190, 150)])
@pytest.mark.parametrize("signed", [False, True])
def test_stopped_at_any_moment_it_brackets_the_optimum(ticking, n_a, n_b, signed):
    a, b = (unit(W) for W in pair(n_a, n_b, seed=n_a))
    score = UnitRows(a, b, signed).block(slice(0, n_a)).astype(np.float64)
    told, gaps = set(), []
    for seconds in range(1, 400):
        source = (UnitRows, CoarseUnitRows)[seconds % 2](a, b, signed)
        budget = Budget(float(seconds))
        found = sparse_assignment.assign(source, row_candidates=2, column_candidates=2, budget=budget)
        check_bracket(_matching(found), score)
        gaps.append(found.gap)
        if found.stopped is None:
            break
        told.add(found.stopped.split(": ")[1].lstrip("0123456789, "))
    assert found.stopped is None
    assert found.gap <= 1e-6
    assert gaps[0] > gaps[-2] > 1e-6
    assert any(text.endswith("rows multiplied") for text in told)
    assert any(text.endswith("rows matched") for text in told)
    assert any(text.startswith("certificate 1") for text in told)


def test_stopped_while_rough_scores_are_settled_it_brackets_the_optimum(ticking, monkeypatch):
    # Cosines within the rounding of bfloat16: the best pairs of every row are listed anew from exact scores.
    monkeypatch.setattr(candidate_pairs, "BLOCK_ENTRIES", 1 << 20)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((1, 16)) + 0.02 * rng.standard_normal((120, 16))
    a, b = unit(W), unit(W + 1e-4 * rng.standard_normal(W.shape))
    score, told = UnitRows(a, b).block(slice(0, 120)).astype(np.float64), set()
    for seconds in range(1, 100):
        budget = Budget(float(seconds))
        found = sparse_assignment.assign(CoarseUnitRows(a, b), row_candidates=2, column_candidates=2, budget=budget)
        check_bracket(_matching(found), score)
        if found.stopped is None:
            break
        told.add(found.stopped.split(": ")[1])
    assert found.stopped is None
    assert "listing the best pairs exactly" in told


def _matching(found: sparse_assignment.Assignment) -> Matching:
    return Matching(
        left=found.left,
        right=found.right,
        cosine=found.score,
        best_left=found.best_left,
        best_right=found.best_right,
        nearest_left=found.nearest_left,
        nearest_right=found.nearest_right,
        alternative_left=found.alternative_left,
        alternative_right=found.alternative_right,
        signed=True,
        gap=found.gap,
        tolerance=1e-6,
        n_excluded_left=0,
        n_excluded_right=0,
        stopped=found.stopped,
    )


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_a=st.integers(1, 60),
    n_b=st.integers(1, 60),
    d=st.integers(1, 8),
    n_distinct=st.sampled_from([1, 3, 1000]),
    signed=st.booleans(),
    seconds=st.integers(1, 12),
)
def test_ties_and_duplicates_stopped_early_are_bracketed_too(seed, n_a, n_b, d, n_distinct, signed, seconds):
    now = iter(range(1000))
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal((n, d))[rng.integers(0, min(n, n_distinct), n)] for n in (n_a, n_b))
    cosine = (unit(a).double() @ unit(b).double().T).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment_budget, "clock", lambda: float(next(now)))
        patch.setattr(candidate_pairs, "BLOCK_ENTRIES", 1 << 8)
        patch.setattr(candidate_pairs, "LEAST_BLOCK_ROWS", 4)
        found = match(a, b, signed, method="sparse", time_budget_s=float(seconds))
    check_bracket(found, cosine if signed else np.abs(cosine))


def test_without_any_row_multiplied_there_is_a_matching_too(ticking):
    a, b = pair(40, 50)
    found = match(a, b, method="sparse", time_budget_s=1.0)
    assert found.stopped == "time budget of 1 s used up: 0 of 40 rows multiplied"
    assert found.upper_bound == pytest.approx(1)
    assert not found.certified
    check_bracket(found, UnitRows(unit(a), unit(b)).block(slice(0, 40)).astype(np.float64))


def test_a_generous_budget_changes_nothing():
    a, b = pair(300, 320)
    free, limited = (
        match(a, b, method="sparse", time_budget_s=s, memory_budget_bytes=m) for s, m in ((None, None), (1e6, 1 << 40))
    )
    np.testing.assert_array_equal(free.right, limited.right)
    assert (free.gap, free.stopped) == (limited.gap, None)


def test_small_problems_are_solved_whatever_the_time_budget():
    found = match(*pair(30, 30), time_budget_s=1e-9)
    assert found.certified
    assert found.stopped is None


def test_little_memory_gives_shorter_lists_or_is_refused():
    a, b = pair(900, 900, d=4)
    with pytest.raises(ValueError, match="memory_budget_bytes leaves .* too few to match 900 with 900 .* are needed"):
        match(a, b, method="sparse", memory_budget_bytes=1_000_000)
    score = UnitRows(unit(a), unit(b)).block(slice(0, 900)).astype(np.float64)
    for n_bytes in range(4_000_000, 6_500_000, 500_000):
        found = match(a, b, method="sparse", memory_budget_bytes=n_bytes)
        check_bracket(found, score)
        assert found.certified or found.stopped.startswith("memory budget of")
    assert found.certified


def test_memory_that_is_full_stops_with_a_bracket(monkeypatch):
    a, b = (unit(W) for W in pair(400, 400))
    score = UnitRows(a, b).block(slice(0, 400)).astype(np.float64)
    monkeypatch.setattr(candidate_pairs.Candidates, "bytes_with", lambda self, n_more: 1 << 60)
    budget = Budget(memory_bytes=1 << 40)
    found = sparse_assignment.assign(UnitRows(a, b), row_candidates=2, column_candidates=2, budget=budget)
    assert found.stopped.startswith("memory budget of 1,048,576 MiB used up")
    check_bracket(_matching(found), score)


def test_a_memory_budget_below_the_unit_rows_is_refused():
    with pytest.raises(ValueError, match="memory_budget_bytes of 1,000 is too small: the unit rows alone take 8,000"):
        match(*pair(200, 200), method="sparse", memory_budget_bytes=1000)


@pytest.mark.parametrize("limit", [{"time_budget_s": 0.0}, {"memory_budget_bytes": -1}])
def test_limits_must_be_positive(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))} must be positive"):
        match(*pair(3, 3), **limit)


def test_scipy_can_keep_no_budget():
    with pytest.raises(ValueError, match="time_budget_s cannot be kept by method 'dense'; use 'sparse' or 'auto'"):
        match(*pair(3, 3), method="dense", time_budget_s=1.0)


def test_other_scores_keep_budgets_too(ticking):
    a, b = (unit(W) for W in pair(100, 90))
    source = UnitRows(a, b)
    found = match_scores(source, method="sparse", time_budget_s=4.0)
    assert "used up" in found.stopped
    check_bracket(found, source.block(slice(0, 100)).astype(np.float64))


def test_progress_is_told_and_goes_forward():
    told: list[tuple[int, int, str]] = []
    match(*pair(600, 600, d=16), method="sparse", progress=lambda *step: told.append(step))
    assert {total for _, total, _ in told} == {1200}
    done = [step for step, _, _ in told]
    assert done == sorted(done)
    assert told[0] == (600, 1200, "600 of 600 rows multiplied")
    assert any(text.endswith("of 600 rows matched") for _, _, text in told)
    assert told[-1] == (1200, 1200, "600 pairs matched")
