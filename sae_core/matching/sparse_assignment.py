"""Exact assignment of large dictionaries without the n x n matrix, with a proof: a part of *consistency*.

1. Candidate pairs from one blocked product (:mod:`sae_core.matching.candidate_pairs`), and bounds for all other pairs.
2. A sparse Jonker-Volgenant solver on the listed pairs, which keeps its dual prices.
3. The certificate: a matching is optimal when no pair scores more than the sum of its prices. A pair that is not
   listed can only do so where that sum is below its bounds, so only those rows and columns are multiplied again.
   Pairs that do are added, and the solver goes on from its prices.

Stopped anywhere on the way, prices and bounds still bracket the optimum. Memory is linear in the number of rows; time
is one product of the dictionaries and a little.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from sae_core.kernel_options import torch_threads
from sae_core.matching import assignment_solver as solver
from sae_core.matching import edge_kernels
from sae_core.matching.assignment_budget import Budget
from sae_core.matching.assignment_certificate import Prices, certify, sum_of_largest, unlisted_excess
from sae_core.matching.candidate_pairs import Candidates, LargestScores, best_of_rows, list_candidates
from sae_core.matching.score_sources import ScoreSource, paired_scores, transposed

_MAX_ROUNDS = 40
_COMPLETING_PAIRS = 64
"""Pairs listed of a row that found no free column."""
_REDUCTION_PASSES = 3
_REDUCTION_STEPS = 40
"""Steps of the row reduction for each row; after that, shortest paths are cheaper."""
_EDGES_AT_ONCE = 1 << 25
"""Edges that the search looks at between two looks at the budget: a few tenths of a second."""


@dataclass(frozen=True)
class Assignment:
    """The best one-to-one assignment of rows and columns of a score matrix, and what is known about the rest.

    When the search was stopped before all rows were multiplied, largest scores are those seen so far.
    """

    left: Int64[np.ndarray, " n"]
    """Assigned rows, ascending."""
    right: Int64[np.ndarray, " n"]
    """Their columns."""
    score: Float[np.ndarray, " n"]
    """Their scores."""
    best_left: Float[np.ndarray, " n_a"]
    """Largest score of each row; nan if none was seen."""
    best_right: Float[np.ndarray, " n_b"]
    """Largest score of each column; nan if none was seen."""
    nearest_left: Int64[np.ndarray, " n_a"]
    """The column with which a row has its largest score, the first of equals; -1 if none was seen."""
    nearest_right: Int64[np.ndarray, " n_b"]
    """The row with which a column has its largest score, the first of equals; -1 if none was seen."""
    alternative_left: Float[np.ndarray, " n"]
    """Largest score of each assigned row with another column than its own; nan if there is none."""
    alternative_right: Float[np.ndarray, " n"]
    """Largest score of each assigned column with another row than its own; nan if there is none."""
    gap: float
    """No assignment has a mean score larger by more than this."""
    stopped: str | None = None
    """Why the search ended before the proof; None if it came to its end."""
    n_rounds: int = 0
    """Certificates that were tried."""
    n_edges: int = 0
    """Pairs that were listed in the end."""


def assign(
    source: ScoreSource,
    tolerance: float = 1e-6,
    row_candidates: int = 48,
    column_candidates: int = 16,
    budget: Budget | None = None,
) -> Assignment:
    """Assign rows to columns one to one so that the sum of their scores is largest.

    Args:
        source: the scores.
        tolerance: a pair may exceed the sum of its prices by so much in the certificate. Scores are float32, so
            below about 3e-7 rounding keeps the certificate from closing, and the gap says so.
        row_candidates: pairs listed of a row at first, at least 2.
        column_candidates: pairs listed of a column at first, at least 2.
        budget: where to stop; None sets no limit.

    Raises:
        ValueError: if the budget has no room for two pairs of each row and column.
    """
    budget = Budget() if budget is None else budget
    n_rows, n_columns = source.shape
    if n_rows > n_columns:
        return _transposed(assign(transposed(source), tolerance, row_candidates, column_candidates, budget))
    with torch_threads():
        pairs = list_candidates(source, row_candidates, column_candidates, budget)
        prices = Prices.start(pairs)
        partner, bound, n_rounds = None, np.inf, 0
        while budget.stopped is None and _solve(pairs, prices, budget):
            partner, n_rounds = prices.partner.copy(), n_rounds + 1
            excess, n_added = certify(pairs, prices, tolerance, n_rounds, budget)
            bound = min(bound, prices.bound(excess))
            if n_added == 0:
                break
            if n_rounds == _MAX_ROUNDS:
                budget.stop(f"the certificate did not close in {_MAX_ROUNDS} rounds")
        if partner is None:
            _complete(pairs, prices)
            partner, bound = prices.partner, prices.bound(unlisted_excess(pairs, prices))
        budget.progress(2 * n_rows, 2 * n_rows, f"{n_rows:,} pairs matched")
        return _result(pairs, partner, bound, tolerance, n_rounds, budget.stopped)


def _solve(pairs: Candidates, p: Prices, budget: Budget) -> bool:
    """Match every row over the listed pairs, listing more where these allow no complete matching.

    Returns whether all rows are matched; False when the budget stopped it.
    """
    n_rows = len(p.u)
    while True:
        edges = (pairs.start, pairs.column, pairs.score, p.u, p.v, p.partner, p.owner)
        freed = solver.restore_tightness(*edges)
        if freed and n_rows < len(p.v):
            # A column that becomes free keeps a price it no longer deserves: start again from equal prices.
            p.v[:], p.partner[:], p.owner[:] = 0.0, -1, -1
        solver.reduce_rows(*edges, _REDUCTION_PASSES, _REDUCTION_STEPS * n_rows)
        row, n_failed = 0, 0
        while row < n_rows:
            n_matched = int((p.partner >= 0).sum())
            done = f"{n_matched:,} of {n_rows:,} rows matched"
            if budget.time_is_up(done):
                return False
            budget.progress(n_rows + n_matched, 2 * n_rows, done)
            row, n_more_failed = solver.augment(*edges, row, _EDGES_AT_ONCE)
            n_failed += n_more_failed
        if n_failed == 0:
            return True
        _list_complete(pairs, np.flatnonzero(p.partner < 0), np.flatnonzero(p.owner < 0), budget)
        if budget.stopped is not None:
            return False


def _list_complete(pairs: Candidates, rows: np.ndarray, columns: np.ndarray, budget: Budget) -> None:
    """List the best pairs of rows and columns that are free, and one pair of each row that nothing else needs."""
    n_more = len(rows) * min(2 * _COMPLETING_PAIRS, len(columns)) + len(rows)
    if budget.is_full(pairs.bytes_with(n_more), f"{len(rows):,} rows have no free column on their lists"):
        return
    found = [(rows, columns[: len(rows)], paired_scores(pairs.source, rows, columns[: len(rows)]))]
    for listed_rows, listed_columns, scores, _, _ in best_of_rows(pairs.source, rows, columns, _COMPLETING_PAIRS):
        found.append((listed_rows, listed_columns, scores))
        if budget.time_is_up(f"{len(rows):,} rows have no free column on their lists"):
            break
    pairs.add(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _complete(pairs: Candidates, p: Prices) -> None:
    """Match what is still free, rows with the largest scores first, and make the prices fit the listed pairs."""
    order = np.argsort(-LargestScores.of(pairs, p.partner).best, kind="stable")
    edge_kernels.complete_greedily(order, pairs.start, pairs.column, pairs.score, p.partner, p.owner)
    solver.lower_to_feasible(pairs.start, pairs.column, pairs.score, p.u, p.v)


def _result(
    pairs: Candidates, partner: np.ndarray, bound: float, tolerance: float, n_rounds: int, stopped: str | None
) -> Assignment:
    n_rows = len(partner)
    largest = LargestScores.of(pairs, partner)
    score = np.empty(n_rows)
    edge_kernels.partner_scores(pairs.start, pairs.column, pairs.score, partner, score)
    unlisted = np.flatnonzero(np.isnan(score))  # only where the search was stopped
    score[unlisted] = paired_scores(pairs.source, unlisted, partner[unlisted])
    largest.look_at(unlisted, partner[unlisted], score[unlisted])
    # The largest scores of all rows, and of all columns, bound any matching too.
    by_row = np.maximum(largest.best, pairs.row_bound).sum()
    by_column = sum_of_largest(np.maximum(largest.column_best, pairs.column_bound), n_rows)
    gap = max(0.0, float(min(bound, by_row, by_column) - score.sum()) / n_rows)
    if stopped is None and gap > tolerance:
        stopped = f"scores are float32: rounding keeps the gap above the tolerance of {tolerance:g}"
    known = [np.where(np.isfinite(x), x, np.nan) for x in (largest.best, largest.column_best, largest.second)]
    column_second = largest.column_second[partner]
    return Assignment(
        left=np.arange(n_rows),
        right=partner,
        score=score,
        best_left=known[0],
        best_right=known[1],
        nearest_left=largest.nearest,
        nearest_right=largest.column_nearest,
        alternative_left=known[2],
        alternative_right=np.where(np.isfinite(column_second), column_second, np.nan),
        gap=gap,
        stopped=stopped,
        n_rounds=n_rounds,
        n_edges=len(pairs.column),
    )


def _transposed(found: Assignment) -> Assignment:
    order = np.argsort(found.right)
    return Assignment(
        left=found.right[order],
        right=found.left[order],
        score=found.score[order],
        best_left=found.best_right,
        best_right=found.best_left,
        nearest_left=found.nearest_right,
        nearest_right=found.nearest_left,
        alternative_left=found.alternative_right[order],
        alternative_right=found.alternative_left[order],
        gap=found.gap,
        stopped=found.stopped,
        n_rounds=found.n_rounds,
        n_edges=found.n_edges,
    )
