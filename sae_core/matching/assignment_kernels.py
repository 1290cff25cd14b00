"""Numba kernels of the sparse assignment that read scores: candidate lists, and the search for violated pairs.

Candidates are chosen by scores or by integer keys that are in their order. Each row or column is written in one
thread, so the number of threads changes no bit.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import Any, no_type_check

import numba
import numpy as np

from sae_core.ordered_dots import dot

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_PARALLEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "parallel": True}
CHUNK = 64
"""Columns that are compared at a time: hardly any chunk holds a new candidate."""


@numba.njit(**_SERIAL)
@no_type_check
def _kth_largest(values, k):
    """The k-th largest value; reorders them (Hoare 1961). Written out, since numba takes long to compile its own."""
    low, high, place = 0, len(values) - 1, len(values) - k
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@numba.njit(**_SERIAL)
@no_type_check
def _group_maxima(row, n_kept):
    """Maxima of interleaved groups of columns, at least eight for each kept one: group j is j, j + n_groups, ..."""
    n = len(row)
    n_groups = n // max(1, min(CHUNK, n // (8 * n_kept)))
    largest = row[:n_groups].copy()
    for first in range(n_groups, n, n_groups):
        strip = row[first : first + n_groups]
        for j in range(len(strip)):
            largest[j] = max(largest[j], strip[j])
    return largest


@numba.njit(**_SERIAL)
@no_type_check
def _gather(row, largest, threshold, values, columns):
    """Write the entries that reach the threshold, looking only at groups that do; how many, or -1 for no room."""
    filled = 0
    for j in range(len(largest)):
        if largest[j] >= threshold:
            for e in range(j, len(row), len(largest)):
                if row[e] >= threshold:
                    if filled == len(values):
                        return -1
                    values[filled], columns[filled] = row[e], e
                    filled += 1
    return filled


@numba.njit(**_SERIAL)
@no_type_check
def _gather_of_many_equal(row, bound, values, columns):
    """Write the entries above the bound, then as many of its equals as there is room for; returns how many."""
    filled = 0
    for equal in (False, True):
        for e in range(len(row)):
            if filled < len(values) and (row[e] == bound if equal else row[e] > bound):
                values[filled], columns[filled] = row[e], e
                filled += 1
    return filled


@numba.njit(**_PARALLEL)
@no_type_check
def list_row_candidates(scores, first_row, n_kept, values, columns, counts, bounds):
    """Keep the largest entries of every row, at least ``n_kept``; what is not kept is at most the bound.

    scores (block, n): of the rows from ``first_row`` on. values, columns (rows, capacity), counts, bounds (rows):
    written. capacity must be at least ``n_kept``; a row with at most capacity columns is kept whole, without a bound.
    """
    n_rows, n_columns = scores.shape
    capacity = values.shape[1]
    for r in numba.prange(n_rows):
        row, i = scores[r], first_row + r
        if n_columns <= capacity:
            for j in range(n_columns):
                values[i, j], columns[i, j] = row[j], j
            counts[i] = n_columns
            continue
        largest = _group_maxima(row, n_kept)
        threshold = _kth_largest(largest.copy(), n_kept)
        filled = _gather(row, largest, threshold, values[i], columns[i])
        if filled < 0:  # many equal values: duplicate features
            threshold = _kth_largest(row.copy(), n_kept)
            filled = _gather_of_many_equal(row, threshold, values[i], columns[i])
        counts[i], bounds[i] = filled, threshold


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
    """Keep of every column its largest entries so far, in min-heaps; call for one block of rows after the other.

    n_parts: ranges of columns that are worked on at the same time. values, rows (columns, width): the heaps, the
    lowest value and -1 before the first block. bounds (columns): their smallest.
    """
    n_rows, n_columns = scores.shape
    width = ((n_columns + n_parts - 1) // n_parts + CHUNK - 1) // CHUNK * CHUNK
    for part in numba.prange(n_parts):
        begin, end = part * width, min(n_columns, (part + 1) * width)
        for r in range(n_rows):
            for left in range(begin, end, CHUNK):
                right = min(end, left + CHUNK)
                new, old = scores[r, left:right], bounds[left:right]
                n_found = np.int32(0)
                for j in range(len(new)):  # of this form the compiler makes vector comparisons
                    n_found += np.int32(new[j] > old[j])
                if n_found:
                    for j in range(left, right):
                        if scores[r, j] > bounds[j]:
                            replace_smallest(values[j], rows[j], scores[r, j], first_row + r)
                            bounds[j] = values[j, 0]


@numba.njit(**_PARALLEL)
@no_type_check
def listed_dots(a, b, start, column, out):
    """Products of row i of ``a`` with the rows ``column[start[i]:start[i + 1]]`` of ``b``."""
    for i in numba.prange(len(start) - 1):
        for e in range(start[i], start[i + 1]):
            out[e] = dot(a[i], b[column[e]])


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
        excesses, n_found, largest = np.empty(n_columns), 0, 0.0
        for j in range(n_columns):
            excess = scores[r, j] + u[r] + v[j]
            largest = max(largest, excess)
            if excess > tolerance:
                excesses[n_found] = excess
                n_found += 1
        worst[r] = largest
        limit = _kth_largest(excesses[:n_found], capacity) if n_found > capacity else tolerance
        filled = 0
        for j in range(n_columns):
            excess = scores[r, j] + u[r] + v[j]
            if excess > tolerance and excess >= limit and filled < capacity:
                columns[r, filled] = j
                values[r, filled] = scores[r, j]
                filled += 1
        counts[r] = filled
