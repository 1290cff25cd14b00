"""Numba kernels of the sparse assignment over its listed pairs: joining lists, largest scores, greedy completion.

Pairs are stored by row: those of row i are ``column[start[i]:start[i+1]]``, ascending, with ``score``.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import Any, no_type_check

import numba
import numpy as np

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_PARALLEL: dict[str, Any] = {"cache": True, "error_model": "numpy", "parallel": True}


@numba.njit(**_SERIAL)
@no_type_check
def count_by_row(start, rows):
    """Where each row's pairs begin when more pairs, of the given rows, are put behind its old ones."""
    end = np.zeros(len(start), np.int64)
    for i in rows:
        end[i + 1] += 1
    total = 0
    for i in range(1, len(start)):
        total += end[i] + start[i] - start[i - 1]
        end[i] = total
    return end


@numba.njit(**_SERIAL)
@no_type_check
def scatter_by_row(start, new_start, rows, columns, scores, new_column, new_score):
    """Put new pairs behind the old ones of their rows, in the order in which they come."""
    place = np.empty(len(start) - 1, np.int64)
    for i in range(len(place)):
        place[i] = new_start[i] + start[i + 1] - start[i]
    for e in range(len(rows)):
        at = place[rows[e]]
        new_column[at], new_score[at] = columns[e], scores[e]
        place[rows[e]] += 1


@numba.njit(**_SERIAL)
@no_type_check
def _sort_by_column(column, score):
    """Insertion sort: what comes here is nearly sorted, or short."""
    for k in range(1, len(column)):
        j, value = column[k], score[k]
        place = k
        while place > 0 and column[place - 1] > j:
            column[place], score[place] = column[place - 1], score[place - 1]
            place -= 1
        column[place], score[place] = j, value


@numba.njit(**_PARALLEL)
@no_type_check
def merge_rows(start, column, score, new_start, new_column, new_score, kept):
    """Merge every row's old pairs with the new ones behind them, without repeats; kept (rows): how many there are."""
    for i in numba.prange(len(kept)):
        first = new_start[i]
        behind = first + start[i + 1] - start[i]
        columns, scores = new_column[behind : new_start[i + 1]].copy(), new_score[behind : new_start[i + 1]].copy()
        _sort_by_column(columns, scores)
        old, new, filled = start[i], 0, first
        while old < start[i + 1] or new < len(columns):
            if new == len(columns) or (old < start[i + 1] and column[old] <= columns[new]):
                j, value = column[old], score[old]
                old += 1
            else:
                j, value = columns[new], scores[new]
                new += 1
            if filled == first or new_column[filled - 1] != j:
                new_column[filled], new_score[filled] = j, value
                filled += 1
        kept[i] = filled - first


@numba.njit(**_SERIAL)
@no_type_check
def close_gaps(start, kept, column, score):
    """Move the kept pairs of all rows together, in place, and set ``start``; returns how many there are."""
    filled = 0
    for i in range(len(kept)):
        first = start[i]
        start[i] = filled
        for e in range(first, first + kept[i]):
            column[filled], score[filled] = column[e], score[e]
            filled += 1
    start[len(kept)] = filled
    return filled


@numba.njit(**_SERIAL)
@no_type_check
def largest_scores(start, column, score, partner, best, nearest, second, column_best, column_nearest, column_second):
    """Largest listed score of each row and column, where it is, and the largest apart from the partner's.

    All outputs are written; -inf and -1 where there is none. Of equal scores the first place counts. partner (rows):
    -1 for none; then the second largest is apart from the first instead.
    """
    best[:], second[:], column_best[:], column_second[:] = -np.inf, -np.inf, -np.inf, -np.inf
    nearest[:], column_nearest[:] = -1, -1
    for i in range(len(best)):
        for e in range(start[i], start[i + 1]):
            j, value = column[e], score[e]
            if value > best[i]:
                best[i], nearest[i] = value, j
            if value > column_best[j]:
                column_best[j], column_nearest[j] = value, i
    owner = column_nearest.copy()
    for i in range(len(best)):
        if partner[i] >= 0:
            owner[partner[i]] = i
    for i in range(len(best)):
        own = partner[i] if partner[i] >= 0 else nearest[i]
        for e in range(start[i], start[i + 1]):
            j, value = column[e], score[e]
            if j != own:
                second[i] = max(second[i], value)
            if i != owner[j]:
                column_second[j] = max(column_second[j], value)


@numba.njit(**_SERIAL)
@no_type_check
def column_maxima(start, column, score, out):
    """Largest listed score of each column, in place."""
    for e in range(start[len(start) - 1]):
        out[column[e]] = max(out[column[e]], score[e])


@numba.njit(**_SERIAL)
@no_type_check
def complete_greedily(order, start, column, score, partner, owner):
    """Give free rows, in the order given, their best free listed column; the rest any free columns, in order."""
    for i in order:
        if partner[i] >= 0:
            continue
        chosen, largest = -1, -np.inf
        for e in range(start[i], start[i + 1]):
            if owner[column[e]] < 0 and score[e] > largest:
                chosen, largest = column[e], score[e]
        if chosen >= 0:
            partner[i], owner[chosen] = chosen, i
    j = 0
    for i in range(len(partner)):
        if partner[i] < 0:
            while owner[j] >= 0:
                j += 1
            partner[i], owner[j] = j, i


@numba.njit(**_SERIAL)
@no_type_check
def partner_scores(start, column, score, partner, out):
    """Score of each row with its partner; nan if that pair is not listed."""
    out[:] = np.nan
    for i in range(len(partner)):
        for e in range(start[i], start[i + 1]):
            if column[e] == partner[i]:
                out[i] = score[e]
