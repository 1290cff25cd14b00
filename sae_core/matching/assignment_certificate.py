"""Dual prices of an assignment, and what they prove about pairs that are not listed: a part of *consistency*.

With a price u for every row and v for every column, no matching scores more than the sum of all prices (of the highest
ones, if there are more columns than rows), provided that no pair scores more than the sum of its two. A pair that is
not listed can only do so where that sum is below its bounds, so only those rows and columns are multiplied again.
"""

from dataclasses import dataclass

import numpy as np

from sae_core.matching import edge_kernels
from sae_core.matching.assignment_budget import Budget
from sae_core.matching.assignment_kernels import find_violations
from sae_core.matching.candidate_pairs import BLOCK_ENTRIES, LEAST_BLOCK_ROWS, Candidates

_VIOLATIONS_KEPT = 64


@dataclass
class Prices:
    """Dual prices and a matching; see :mod:`sae_core.matching.assignment_solver`."""

    u: np.ndarray
    v: np.ndarray
    partner: np.ndarray
    owner: np.ndarray

    @classmethod
    def start(cls, pairs: Candidates) -> "Prices":
        """Nothing matched, and the prices a good start."""
        n_rows, n_columns = pairs.source.shape
        v = np.zeros(n_columns)
        if n_rows == n_columns:
            # Column maxima are a good first price. With columns to spare every price must start equal, since those
            # that stay free keep theirs and no price may exceed it.
            largest = np.full(n_columns, -np.inf, np.float32)
            edge_kernels.column_maxima(pairs.start, pairs.column, pairs.score, largest)
            v[:] = np.where(np.isfinite(largest), -largest, 0.0)
        return cls(np.zeros(n_rows), v, np.full(n_rows, -1), np.full(n_columns, -1))

    def bound(self, excess: np.ndarray) -> float:
        """No matching has a larger sum of scores, if no pair of a row exceeds its prices by more than ``excess``."""
        return float(excess.sum() - self.u.sum() + sum_of_largest(-self.v, len(self.u)))


def certify(pairs: Candidates, p: Prices, tolerance: float, n_rounds: int, budget: Budget) -> tuple[np.ndarray, int]:
    """Look for pairs that score more than the sum of their prices, and list them.

    Returns what the pairs of each row exceed their prices by at most, and how many pairs are new.
    """
    # In terms of scores: profit of a row -u, price of a column -v, and score <= profit + price is wanted.
    excess = unlisted_excess(pairs, p)
    rows = np.flatnonzero(excess > 0)
    spare = pairs.row_bound + p.u  # an unlisted pair of this row can only exceed columns priced below this
    rows = rows[np.argsort(-spare[rows], kind="stable")]  # rows alike in one block: fewer columns for most blocks
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    n_found = 0
    start, n_block = 0, 256
    while start < len(rows):
        where = f"certificate {n_rounds}, {start:,} of {len(rows):,} rows checked, {n_found:,} pairs added"
        if budget.time_is_up(where):
            break
        budget.progress(2 * len(p.u) - 1, 2 * len(p.u), where)
        block = rows[start : start + n_block]
        columns = np.flatnonzero((-p.v < spare[block].max()) & (pairs.column_bound + p.v > (-p.u[block]).min()))
        if len(columns):
            block = block[: max(LEAST_BLOCK_ROWS, BLOCK_ENTRIES // len(columns))]
            violations, excess[block] = _violations(pairs, p, tolerance, block, columns)
            n_found += len(violations[0])
            if budget.is_full(pairs.bytes_with(n_found), where):
                break
            found.append(violations)
        else:
            excess[block] = 0.0
        start, n_block = start + len(block), 1024
    if not any(len(scores) for _, _, scores in found):
        return excess, 0
    return excess, pairs.add(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _violations(
    pairs: Candidates, p: Prices, tolerance: float, block: np.ndarray, columns: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The worst violations of each row of a block as rows, columns, scores; and the largest excess of each row."""
    scores, n = pairs.source.products(block, columns), len(block)
    kept = min(_VIOLATIONS_KEPT, len(columns))
    places, values = np.empty((n, kept), np.int32), np.empty((n, kept), np.float32)
    counts, worst = np.empty(n, np.int64), np.empty(n)
    find_violations(scores, p.u[block], p.v[columns], tolerance, places, values, counts, worst)
    listed = np.arange(kept) < counts[:, None]
    return (np.repeat(block, counts), columns[places[listed]], values[listed]), worst


def unlisted_excess(pairs: Candidates, p: Prices) -> np.ndarray:
    """What the pairs of each row that are not listed can exceed their prices by at most, at least 0.

    Such a pair scores at most the smaller bound, so the excess is at most ``max_j min(row, column_j) + v_j``, plus u.
    """
    order = np.argsort(pairs.column_bound)
    bound, v = pairs.column_bound[order], p.v[order]
    of_lower = np.concatenate([[-np.inf], np.maximum.accumulate(bound + v)])
    of_higher = np.concatenate([np.maximum.accumulate(v[::-1])[::-1], [-np.inf]])
    place = np.searchsorted(bound, pairs.row_bound, side="right")
    without_u = np.maximum(of_lower[place], pairs.row_bound + of_higher[place])
    no_pair = np.isinf(p.u)
    p.u[no_pair] = -without_u[no_pair]
    return np.asarray(np.maximum(0.0, without_u + p.u))


def sum_of_largest(values: np.ndarray, n: int) -> float:
    """Sum of the n largest values."""
    return float(np.sort(values)[len(values) - n :].sum())
