"""The pairs that a sparse assignment looks at, and bounds for all others: a part of *consistency*.

One blocked product. Of every row the pairs above a bound are listed, of every column the best few; what is not listed
is at most the smaller of the two bounds. Where a source knows its scores roughly and faster, candidates are chosen by
the rough ones, the bounds allow for their error, and every listed pair is scored exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float64, Int64

from sae_core.matching import assignment_kernels as kernels
from sae_core.matching import edge_kernels
from sae_core.matching.assignment_budget import Budget
from sae_core.matching.score_sources import CoarseSource, ScoreSource, Transposed

BLOCK_ENTRIES = 1 << 22
"""Scores in one block of the product: 8 to 16 MB, which stay in cache."""
LEAST_BLOCK_ROWS = 256
"""With fewer rows in a block the product waits for memory."""
_BYTES_OF_PAIR = 12 + 8
"""Row, column and score of a pair on its way into the list, and column and score in the list."""
_BYTES_OF_ROW = 120
"""Prices, partners, the state of a search and the results, for each row and column."""


@dataclass
class Candidates:
    """The listed pairs, by row, and bounds for all others."""

    source: ScoreSource
    row_bound: Float64[np.ndarray, " rows"]
    """Of each row, what a pair that is not listed scores at most; -inf if all are listed."""
    column_bound: Float64[np.ndarray, " columns"]
    n_seen: int
    """Rows whose scores were looked at: all of them, if the time sufficed."""
    start: np.ndarray
    """Pairs of row i are those from ``start[i]`` to ``start[i + 1]``."""
    column: np.ndarray
    """Their columns, int32, ascending in each row."""
    score: np.ndarray
    """Their scores, float32."""

    @classmethod
    def empty(cls, source: ScoreSource) -> "Candidates":
        """No pairs yet, and no score known."""
        n_rows, n_columns = source.shape
        start = np.zeros(n_rows + 1, np.int64)
        bounds = np.ones(n_rows), np.ones(n_columns)
        return cls(source, *bounds, 0, start, np.empty(0, np.int32), np.empty(0, np.float32))

    def add(self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> int:
        """List more pairs; returns how many are new. Those listed already keep their scores."""
        n_before = len(self.column)
        rows, columns = (places.astype(np.int32, copy=False) for places in (rows, columns))
        start = edge_kernels.count_by_row(self.start, rows)
        column, score = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
        edge_kernels.scatter_by_row(self.start, start, rows, columns, scores, column, score)
        kept = np.empty(len(start) - 1, np.int64)
        edge_kernels.merge_rows(self.start, self.column, self.score, start, column, score, kept)
        n = int(edge_kernels.close_gaps(start, kept, column, score))
        self.start, self.column, self.score = start, column[:n], score[:n]
        return n - n_before

    def bytes_with(self, n_more: int) -> int:
        """Memory that so many more pairs would take at most, with all that is held."""
        n_rows, n_columns = self.source.shape
        pairs = 16 * len(self.column) + _BYTES_OF_PAIR * n_more  # the old list and the new one, for a moment
        return pairs + _BYTES_OF_ROW * (n_rows + n_columns) + _block_bytes(n_rows, n_columns)


@dataclass
class LargestScores:
    """The largest listed scores of rows and columns; -inf and -1 where there is none."""

    best: Float64[np.ndarray, " rows"]
    nearest: Int64[np.ndarray, " rows"]
    """Column of the best, the first of equals."""
    second: Float64[np.ndarray, " rows"]
    """Largest apart from the partner's, or from the best's where there is no partner."""
    column_best: Float64[np.ndarray, " columns"]
    column_nearest: Int64[np.ndarray, " columns"]
    column_second: Float64[np.ndarray, " columns"]

    @classmethod
    def of(cls, pairs: Candidates, partner: Int64[np.ndarray, " rows"]) -> "LargestScores":
        """Look through the listed pairs; partner: the column of each row, -1 for none."""
        values = [np.empty(n, dtype) for n in pairs.source.shape for dtype in (np.float64, np.int64, np.float64)]
        edge_kernels.largest_scores(pairs.start, pairs.column, pairs.score, partner, *values)
        return cls(*values)

    def look_at(self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> None:
        """Take matched pairs into account that are not listed: one of each row and column at most."""
        for best, nearest, ours, others in (
            (self.best, self.nearest, rows, columns),
            (self.column_best, self.column_nearest, columns, rows),
        ):
            better = scores > best[ours]
            best[ours[better]], nearest[ours[better]] = scores[better], others[better]


def list_candidates(source: ScoreSource, n_of_row: int, n_of_column: int, budget: Budget) -> Candidates:
    """List the best pairs of every row and column, fewer than asked for if the memory allows no more.

    Raises:
        ValueError: if the memory does not allow two pairs of each.
    """
    n_rows, n_columns = source.shape
    n_of_row, n_of_column = _affordable(n_rows, n_columns, n_of_row, n_of_column, budget.room)
    dtype = np.int16 if isinstance(source, CoarseSource) else np.float32
    lists = _Lists(n_rows, n_columns, n_of_row, n_of_column, dtype)
    found = Candidates.empty(source)
    for rows in blocks(n_rows, n_columns):
        if budget.time_is_up(f"{rows.start:,} of {n_rows:,} rows multiplied"):
            break
        lists.add(source.coarse_block(rows) if isinstance(source, CoarseSource) else source.block(rows), rows.start)
        found.n_seen = rows.stop
        budget.progress(rows.stop, 2 * n_rows, f"{rows.stop:,} of {n_rows:,} rows multiplied")
    found.add(*lists.pairs())
    if isinstance(source, CoarseSource):
        found.score = source.listed(found.start, found.column)
        row_bound, column_bound = source.upper_bounds(lists.row_bound, lists.column_bound)
    else:
        row_bound, column_bound = lists.row_bound.astype(np.float64), lists.column_bound.astype(np.float64)
    found.row_bound[: found.n_seen] = -np.inf if lists.whole_rows else row_bound[: found.n_seen]
    if found.n_seen == n_rows:
        found.column_bound = np.full(n_columns, -np.inf) if lists.whole_columns else column_bound
        if isinstance(source, CoarseSource):
            _list_two_best(found, n_of_row, budget)
    return found


class _Lists:
    """Candidates while the product runs: of each row as found in its block, of each column in a heap."""

    def __init__(self, n_rows: int, n_columns: int, n_of_row: int, n_of_column: int, dtype: type) -> None:
        capacity, width = min(2 * n_of_row, n_columns), min(n_of_column, n_rows)
        lowest = np.iinfo(np.int16).min if dtype is np.int16 else -np.inf
        self.n_of_row = min(n_of_row, capacity)
        self.whole_rows, self.whole_columns = n_columns <= capacity, n_rows <= width
        self.keys: np.ndarray = np.empty((n_rows, capacity), dtype)
        self.columns = np.empty((n_rows, capacity), np.int32)
        self.counts = np.zeros(n_rows, np.int64)
        self.row_bound: np.ndarray = np.full(n_rows, lowest, dtype)
        self.heap_keys: np.ndarray = np.full((n_columns, width), lowest, dtype)
        self.heap_rows = np.full((n_columns, width), -1, np.int32)
        self.column_bound: np.ndarray = np.full(n_columns, lowest, dtype)

    def add(self, keys: np.ndarray, first_row: int) -> None:
        """Look at a block of rows."""
        n_parts = numba.get_num_threads()
        kernels.list_row_candidates(
            keys, first_row, self.n_of_row, self.keys, self.columns, self.counts, self.row_bound
        )
        kernels.list_column_candidates(keys, first_row, n_parts, self.heap_keys, self.heap_rows, self.column_bound)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All candidates as rows, columns and keys (as float32); the lists are given up."""
        listed, filled = np.arange(self.keys.shape[1]) < self.counts[:, None], self.heap_rows >= 0
        n_rows, n_columns = (np.arange(len(mask), dtype=np.int32) for mask in (listed, filled))
        rows = np.concatenate([np.repeat(n_rows, self.counts), self.heap_rows[filled]])
        columns = np.concatenate([self.columns[listed], np.repeat(n_columns, filled.sum(axis=1))])
        keys = np.concatenate([self.keys[listed], self.heap_keys[filled]]).astype(np.float32)
        del self.keys, self.columns, self.heap_keys, self.heap_rows
        return rows, columns, keys


def best_of_rows(
    source: ScoreSource, rows: np.ndarray, columns: np.ndarray, n_kept: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The best pairs of some rows with some columns, block by block: rows, columns, scores; the block; its bounds."""
    capacity = min(2 * n_kept, len(columns))
    for block in blocks(len(rows), len(columns)):
        scores = source.products(rows[block], columns)
        n = len(scores)
        values, places = np.empty((n, capacity), np.float32), np.empty((n, capacity), np.int32)
        counts, bounds = np.empty(n, np.int64), np.empty(n, np.float32)
        kernels.list_row_candidates(scores, 0, min(n_kept, capacity), values, places, counts, bounds)
        listed = np.arange(capacity) < counts[:, None]
        if len(columns) <= capacity:
            bounds[:] = -np.inf
        yield np.repeat(rows[block], counts), columns[places[listed]], values[listed], rows[block], bounds


def blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Ranges of rows whose scores are held at one time."""
    size = _block_rows(n_columns)
    for start in range(0, n_rows, size):
        yield slice(start, min(n_rows, start + size))


def _block_rows(n_columns: int) -> int:
    return min(2048, max(LEAST_BLOCK_ROWS, BLOCK_ENTRIES // n_columns))


def _block_bytes(n_rows: int, n_columns: int) -> int:
    return 4 * min(n_rows, _block_rows(n_columns)) * n_columns


def _affordable(n_rows: int, n_columns: int, n_of_row: int, n_of_column: int, room: int | None) -> tuple[int, int]:
    """How many pairs of a row and of a column can be listed: as asked for, or as many as fit."""
    fixed = _BYTES_OF_ROW * (n_rows + n_columns) + _block_bytes(n_rows, n_columns)
    while room is not None:
        n_pairs = 2 * n_of_row * n_rows + n_of_column * n_columns
        if fixed + (8 + _BYTES_OF_PAIR) * n_pairs <= room:
            break
        if n_of_row == n_of_column == 2:
            raise ValueError(
                f"memory_budget_bytes leaves {room:,} bytes for scores, too few to match {n_rows:,} with "
                f"{n_columns:,} features: at least {fixed + (8 + _BYTES_OF_PAIR) * n_pairs:,} are needed"
            )
        n_of_row, n_of_column = max(2, n_of_row // 2), max(2, n_of_column // 2)
    return n_of_row, n_of_column


def _list_two_best(found: Candidates, n_kept: int, budget: Budget) -> None:
    """List exactly the rows and columns of which a pair that is not listed could be among the two best."""
    n_rows, n_columns = found.source.shape
    everything = np.arange(n_rows), np.arange(n_columns)
    largest = LargestScores.of(found, np.full(n_rows, -1))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for transpose, second, bound in (
        (False, largest.second, found.row_bound),
        (True, largest.column_second, found.column_bound),
    ):
        unsure = np.flatnonzero((second <= bound) & np.isfinite(bound))
        source = Transposed(found.source) if transpose else found.source
        for ours, others, scores, block, bounds in best_of_rows(source, unsure, everything[1 - transpose], n_kept):
            pair = (others, ours) if transpose else (ours, others)
            parts.append((*pair, scores))
            bound[block] = bounds
            if budget.time_is_up("listing the best pairs exactly"):
                break
    if parts:
        found.add(*(np.concatenate(part) for part in zip(*parts, strict=True)))
