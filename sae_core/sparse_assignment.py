"""Exact assignment of large dictionaries without the n x n matrix, with a proof: a part of *consistency*.

1. One blocked product. Of every row the pairs above a bound are listed, of every column the best few; what is not
   listed is at most the smaller of the two bounds.
2. A sparse Jonker-Volgenant solver on the listed pairs, which keeps its dual prices.
3. The certificate: a matching is optimal when no pair scores more than the sum of its prices. A pair that is not
   listed can only do so where that sum is below its bounds, so only those rows and columns are multiplied again.
   Pairs that do are added, and the solver goes on from its prices.

Memory is linear in the number of rows; time is one product of the dictionaries and a little.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numba
import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from sae_core import assignment_kernels as kernels
from sae_core import assignment_solver as solver
from sae_core.encoder_products import linear
from sae_core.sparse_kernels import torch_threads

_BLOCK_ENTRIES = 1 << 22
"""Scores in one block of the product: 16 MB, which the allocator hands out again without new pages."""
_LEAST_BLOCK_ROWS = 256
"""With fewer rows in a block the product waits for memory."""
_MAX_ROUNDS = 40
_VIOLATIONS_KEPT = 64
_REDUCTION_PASSES = 3
_REDUCTION_STEPS = 40
"""Steps of the row reduction for each row; after that, shortest paths are cheaper."""


@dataclass(frozen=True)
class Assignment:
    """The best one-to-one assignment of rows and columns of a score matrix, and what is known about the rest."""

    left: Int64[np.ndarray, " n"]
    """Assigned rows, ascending."""
    right: Int64[np.ndarray, " n"]
    """Their columns."""
    best_left: Float[np.ndarray, " n_a"]
    """Largest score of each row."""
    best_right: Float[np.ndarray, " n_b"]
    """Largest score of each column."""
    alternative_left: Float[np.ndarray, " n"]
    """Largest score of each assigned row with another column than its own; nan if there is none."""
    alternative_right: Float[np.ndarray, " n"]
    """Largest score of each assigned column with another row than its own; nan if there is none."""
    gap: float
    """No assignment has a mean score larger by more than this."""
    n_rounds: int = 0
    """Certificates that were tried."""
    n_edges: int = 0
    """Pairs that were listed in the end."""


def assign(
    a: Float32[Tensor, "n_a d"],
    b: Float32[Tensor, "n_b d"],
    signed: bool = False,
    tolerance: float = 1e-6,
    row_candidates: int = 48,
    column_candidates: int = 16,
) -> Assignment:
    """Assign unit rows of ``a`` to unit rows of ``b`` so that the sum of absolute (or signed) cosines is largest.

    Args:
        a: unit rows; the products run on their device.
        b: likewise.
        signed: maximise the cosine instead of its absolute value.
        tolerance: a pair may exceed the sum of its prices by so much in the certificate. Cosines are float32, so
            below about 3e-7 rounding keeps the certificate from closing, and the gap says so.
        row_candidates: pairs listed of a row at first, at least 2.
        column_candidates: pairs listed of a column at first, at least 2.
    """
    if len(a) > len(b):
        return _transposed(assign(b, a, signed, tolerance, row_candidates, column_candidates))
    with torch_threads():
        problem = _list_candidates(a, b, signed, row_candidates, column_candidates)
        solution = _Solution.start(problem)
        n_rounds, n_added = 0, 1
        while n_added and n_rounds < _MAX_ROUNDS:
            _solve(problem, solution)
            worst, n_added = _certify(problem, solution, tolerance)
            n_rounds += 1
    best_left, best_right, alternative_left, alternative_right = _best_and_alternatives(problem, solution)
    return Assignment(
        left=np.arange(len(a)),
        right=solution.partner,
        best_left=best_left,
        best_right=best_right,
        alternative_left=alternative_left,
        alternative_right=alternative_right[solution.partner],
        gap=_gap(problem, solution, worst),
        n_rounds=n_rounds,
        n_edges=len(problem.column),
    )


@dataclass
class _Problem:
    """The listed pairs, by row, and bounds for all others."""

    a: Float32[Tensor, "rows d"]
    b: Float32[Tensor, "columns d"]
    signed: bool
    row_bound: np.ndarray
    """Of each row, what a pair that is not listed scores at most."""
    column_bound: np.ndarray
    key: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """row * n_columns + column of each listed pair, ascending."""
    score: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    def add(self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> int:
        """List more pairs; returns how many are new."""
        n_before = len(self.key)
        key = np.concatenate([self.key, rows.astype(np.int64) * len(self.b) + columns])
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.ones(len(key), bool)
        first[1:] = key[1:] != key[:-1]
        self.key, self.score = key[first], np.concatenate([self.score, scores])[order[first]]
        self.row = self.key // len(self.b)
        self.column = (self.key - self.row * len(self.b)).astype(np.int32)
        self.start = np.concatenate([[0], np.cumsum(np.bincount(self.row, minlength=len(self.a)))])
        self.cost = -self.score.astype(np.float64)
        return len(self.key) - n_before

    def products(self, rows: np.ndarray, columns: np.ndarray) -> Float32[np.ndarray, "r c"]:
        """Scores of some rows with some columns."""
        return _scores(self.a[_on(rows, self.a)], self.b[_on(columns, self.b)], self.signed)


@dataclass
class _Solution:
    """A matching and its dual prices; see :mod:`sae_core.assignment_solver`."""

    u: np.ndarray
    v: np.ndarray
    partner: np.ndarray
    owner: np.ndarray

    @classmethod
    def start(cls, problem: _Problem) -> "_Solution":
        n_rows, n_columns = len(problem.a), len(problem.b)
        v = np.zeros(n_columns)
        if n_rows == n_columns:
            # Column maxima are a good first price. With columns to spare every price must start equal, since those
            # that stay free keep theirs and no price may exceed it.
            v[:] = np.inf
            np.minimum.at(v, problem.column, problem.cost)
        return cls(np.zeros(n_rows), v, np.full(n_rows, -1), np.full(n_columns, -1))


def _list_candidates(a: Tensor, b: Tensor, signed: bool, row_candidates: int, column_candidates: int) -> _Problem:
    n_rows, n_columns = len(a), len(b)
    capacity, width = min(2 * row_candidates, n_columns), min(column_candidates, n_rows)
    values, columns = np.empty((n_rows, capacity), np.float32), np.empty((n_rows, capacity), np.int32)
    counts, row_bound = np.zeros(n_rows, np.int64), np.empty(n_rows, np.float32)
    heap_values, heap_rows = np.full((n_columns, width), -np.inf, np.float32), np.full((n_columns, width), -1, np.int32)
    column_bound = np.full(n_columns, -np.inf, np.float32)
    n_parts = numba.get_num_threads()
    for start, rows in _blocks(n_rows, n_columns):
        scores = _scores(a[rows], b, signed)
        kernels.list_row_candidates(scores, start, min(row_candidates, capacity), values, columns, counts, row_bound)
        kernels.list_column_candidates(scores, start, n_parts, heap_values, heap_rows, column_bound)
    listed = np.arange(capacity) < counts[:, None]
    if width == n_rows:  # every pair of a column is in its heap
        column_bound[:] = -np.inf
    problem = _Problem(a, b, signed, row_bound.astype(np.float64), column_bound.astype(np.float64))
    problem.add(
        np.concatenate([np.repeat(np.arange(n_rows), counts), heap_rows.ravel()]),
        np.concatenate([columns[listed], np.repeat(np.arange(n_columns), width)]),
        np.concatenate([values[listed], heap_values.ravel()]),
    )
    return problem


def _solve(problem: _Problem, s: _Solution) -> None:
    """Match every row over the listed pairs, listing more where these allow no complete matching."""
    while True:
        edges = (problem.start, problem.column, problem.cost, s.u, s.v, s.partner, s.owner)
        freed = solver.restore_tightness(*edges)
        if freed and len(s.u) < len(s.v):
            # A column that becomes free keeps a price it no longer deserves: start again from equal prices.
            s.v[:], s.partner[:], s.owner[:] = 0.0, -1, -1
        solver.reduce_rows(*edges, _REDUCTION_PASSES, _REDUCTION_STEPS * len(s.u))
        if solver.augment(*edges) == 0:
            return
        rows, columns = np.flatnonzero(s.partner < 0), np.flatnonzero(s.owner < 0)
        _list_complete(problem, rows, columns)


def _list_complete(problem: _Problem, rows: np.ndarray, columns: np.ndarray) -> None:
    """List the best pairs of rows and columns that are free, and one pair of each row that nothing else needs."""
    capacity = min(2 * _VIOLATIONS_KEPT, len(columns))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, block in _blocks(len(rows), len(columns)):
        scores = problem.products(rows[block], columns)
        n = len(scores)
        values, places = np.empty((n, capacity), np.float32), np.empty((n, capacity), np.int32)
        counts, bounds = np.empty(n, np.int64), np.empty(n, np.float32)
        kernels.list_row_candidates(scores, 0, min(_VIOLATIONS_KEPT, capacity), values, places, counts, bounds)
        listed = np.arange(capacity) < counts[:, None]
        found.append((np.repeat(rows[block], counts), columns[places[listed]], values[listed]))
        own = np.arange(n)
        found.append((rows[block], columns[start : start + n], scores[own, start + own]))
    problem.add(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _certify(problem: _Problem, s: _Solution, tolerance: float) -> tuple[float, int]:
    """Look for pairs that score more than the sum of their prices, and list them.

    Returns the sum over rows of the largest excess, and how many pairs are new.
    """
    # In terms of scores: profit of a row -u, price of a column -v, and score <= profit + price is wanted.
    spare = problem.row_bound + s.u  # an unlisted pair of this row can only exceed columns priced below this
    rows = np.flatnonzero(spare > -s.v.max())
    rows = rows[np.argsort(-spare[rows], kind="stable")]  # rows alike in one block: fewer columns for most blocks
    total, found = 0.0, []
    start, n_block = 0, 256
    while start < len(rows):
        block = rows[start : start + n_block]
        columns = np.flatnonzero((-s.v < spare[block].max()) & (problem.column_bound + s.v > (-s.u[block]).min()))
        if len(columns):
            n_fit = max(1, _BLOCK_ENTRIES // len(columns))
            block = block[:n_fit]
            scores, n = problem.products(block, columns), len(block)
            kept = min(_VIOLATIONS_KEPT, len(columns))
            places, values = np.empty((n, kept), np.int32), np.empty((n, kept), np.float32)
            counts, worst = np.empty(n, np.int64), np.empty(n)
            kernels.find_violations(scores, s.u[block], s.v[columns], tolerance, places, values, counts, worst)
            listed = np.arange(kept) < counts[:, None]
            found.append((np.repeat(block, counts), columns[places[listed]], values[listed]))
            total += worst.sum()
        start, n_block = start + len(block), 1024
    if not any(len(rows) for rows, _, _ in found):
        return float(total), 0
    return float(total), problem.add(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _gap(problem: _Problem, s: _Solution, worst: float) -> float:
    """Mean excess of the dual bound over the matching: prices raised until no pair exceeds them bound any matching."""
    n_rows = len(s.u)
    matched = np.searchsorted(problem.key, np.arange(n_rows) * len(s.v) + s.partner)
    # A matching takes as many columns as there are rows: at most the sum of the highest prices.
    bound = -s.u.sum() + worst + np.sort(-s.v)[len(s.v) - n_rows :].sum()
    return max(0.0, float(bound - problem.score[matched].astype(np.float64).sum()) / n_rows)


def _best_and_alternatives(problem: _Problem, s: _Solution) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Largest score of each row and column, and largest apart from its match: the lists hold the two best of each."""
    found = []
    other = np.where(problem.column == s.partner[problem.row], -np.inf, problem.score)
    for score in (problem.score.astype(np.float64), other.astype(np.float64)):
        by_row, by_column = np.full(len(s.u), -np.inf), np.full(len(s.v), -np.inf)
        np.maximum.at(by_row, problem.row, score)
        np.maximum.at(by_column, problem.column, score)
        found += [by_row, by_column]
    best_left, best_right, *alternatives = found
    alternative_left, alternative_right = (np.where(np.isfinite(x), x, np.nan) for x in alternatives)
    return best_left, best_right, alternative_left, alternative_right


def _scores(a: Float32[Tensor, "r d"], b: Float32[Tensor, "c d"], signed: bool) -> Float32[np.ndarray, "r c"]:
    product = linear(a, b, torch.zeros(len(b))) if a.device.type == "cpu" else a @ b.T
    if not signed:
        product.abs_()
    found: np.ndarray = product.cpu().numpy()
    return found


def _blocks(n_rows: int, n_columns: int) -> Iterator[tuple[int, slice]]:
    size = min(2048, max(_LEAST_BLOCK_ROWS, _BLOCK_ENTRIES // n_columns))
    for start in range(0, n_rows, size):
        yield start, slice(start, min(n_rows, start + size))


def _on(rows: np.ndarray, W: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(W.device)


def _transposed(found: Assignment) -> Assignment:
    order = np.argsort(found.right)
    return Assignment(
        left=found.right[order],
        right=found.left[order],
        best_left=found.best_right,
        best_right=found.best_left,
        alternative_left=found.alternative_right[order],
        alternative_right=found.alternative_left[order],
        gap=found.gap,
        n_rounds=found.n_rounds,
        n_edges=found.n_edges,
    )
