"""Numba kernels of the sparse assignment that read scores: candidate lists, and the search for violated pairs.

Each row or column is written in one thread, so the number of threads changes no bit.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import Any, no_type_check

import numba
import numpy as np

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_PARALLEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "parallel": True}
STRIPS = 16
"""Interleaved strips over which a row's maxima are taken: the first of two levels of selection."""


@numba.njit(**_SERIAL)
@no_type_check
def _row_threshold(row, n_kept):
    """A value that at least ``n_kept`` entries reach, and rarely many more: from the maxima of interleaved groups."""
    n_groups = len(row) // STRIPS
    if n_groups < 2 * n_kept:
        return np.partition(row, len(row) - n_kept)[len(row) - n_kept]
    largest = np.empty(n_groups, row.dtype)
    for j in range(n_groups):
        largest[j] = row[j]
    for strip in range(1, STRIPS):
        offset = strip * n_groups
        for j in range(n_groups):
            value = row[offset + j]
            largest[j] = value if value > largest[j] else largest[j]
    return np.partition(largest, n_groups - n_kept)[n_groups - n_kept]


@numba.njit(**_SERIAL)
@no_type_check
def _gather(row, bound, values, columns, filled):
    """Append the entries above the bound; returns how many are there then, or -1 if they do not fit."""
    for j in range(len(row)):
        if row[j] > bound:
            if filled == len(values):
                return -1
            values[filled] = row[j]
            columns[filled] = j
            filled += 1
    return filled


@numba.njit(**_PARALLEL)
@no_type_check
def list_row_candidates(scores, first_row, n_kept, values, columns, counts, bounds):
    """Keep of every row the pairs above a bound; what is not kept scores at most the bound.

    scores (block, n): of the rows from ``first_row`` on. values, columns (rows, capacity), counts, bounds (rows):
    written. capacity must be at least ``n_kept``; a row with at most capacity columns is kept whole.
    """
    n_rows, n_columns = scores.shape
    capacity = values.shape[1]
    for r in numba.prange(n_rows):
        row, i = scores[r], first_row + r
        bound = np.float32(-np.inf)
        filled = 0
        if n_columns > capacity:
            threshold = _row_threshold(row, n_kept)
            bound = np.nextafter(threshold, np.float32(-np.inf))
        filled = _gather(row, bound, values[i], columns[i], 0)
        if filled < 0:
            # Too many: many equal values (duplicate features). Keep what is above the n_kept-th largest, then as
            # many of its equals as there is room for.
            bound = np.partition(row, n_columns - n_kept)[n_columns - n_kept]
            filled = _gather(row, bound, values[i], columns[i], 0)
            for j in range(n_columns):
                if row[j] == bound and filled < capacity:
                    values[i, filled] = row[j]
                    columns[i, filled] = j
                    filled += 1
        counts[i] = filled
        bounds[i] = bound


@numba.njit(**_SERIAL)
@no_type_check
def replace_smallest(keys, items, key, item):
    """Replace the root of a min-heap and sift it down."""
    size, place = len(keys), 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[place] = keys[child]
        items[place] = items[child]
        place = child
    keys[place] = key
    items[place] = item


@numba.njit(**_PARALLEL)
@no_type_check
def list_column_candidates(scores, first_row, n_parts, values, rows, bounds):
    """Keep of every column its largest scores so far, in min-heaps; call for one block of rows after the other.

    n_parts: ranges of columns that are worked on at the same time. values, rows (columns, width): the heaps, -inf
    and -1 before the first block. bounds (columns): their smallest.
    """
    n_rows, n_columns = scores.shape
    width = (n_columns + n_parts - 1) // n_parts
    for part in numba.prange(n_parts):
        begin, end = part * width, min(n_columns, (part + 1) * width)
        for r in range(n_rows):
            for left in range(begin, end, 16):  # a vector at a time: hardly any holds a new candidate
                right = min(end, left + 16)
                found = False
                for j in range(left, right):
                    found |= scores[r, j] > bounds[j]
                if found:
                    for j in range(left, right):
                        if scores[r, j] > bounds[j]:
                            replace_smallest(values[j], rows[j], scores[r, j], first_row + r)
                            bounds[j] = values[j, 0]


@numba.njit(**_PARALLEL)
@no_type_check
def find_violations(scores, u, v, tolerance, columns, values, counts, worst):
    """Pairs of a block whose score exceeds the sum of its prices, ``score > -(u + v)``, by more than the tolerance.

    scores (rows, n), u (rows), v (n). columns, values (rows, capacity): written, the worst ones when there are more.
    counts (rows): how many were written. worst (rows): the largest excess, 0 if none.
    """
    n_rows, n_columns = scores.shape
    capacity = columns.shape[1]
    for r in numba.prange(n_rows):
        n_found, largest = 0, 0.0
        for j in range(n_columns):
            excess = scores[r, j] + u[r] + v[j]
            largest = max(largest, excess)
            n_found += excess > tolerance
        worst[r] = largest
        limit = tolerance
        if n_found > capacity:
            excesses = scores[r] + u[r] + v
            limit = np.partition(excesses, n_columns - capacity)[n_columns - capacity]
        filled = 0
        for j in range(n_columns):
            excess = scores[r, j] + u[r] + v[j]
            if excess > tolerance and excess >= limit and filled < capacity:
                columns[r, filled] = j
                values[r, filled] = scores[r, j]
                filled += 1
        counts[r] = filled
