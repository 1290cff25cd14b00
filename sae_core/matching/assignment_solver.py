"""Numba kernels that solve the sparse assignment: a Jonker-Volgenant solver which keeps its dual prices.

Edges are stored by row: those of row i are ``column[start[i]:start[i+1]]`` with ``score``; a cost is a negative score.
The prices hold ``u[i] + v[j] <= cost(i, j)`` on every edge, with equality on matched ones, which is what proves a
matching optimal. ``partner[i]`` is the column of row i, ``owner[j]`` the row of column j, -1 if free.

Source: Jonker & Volgenant 1987, "A shortest augmenting path algorithm for dense and sparse linear assignment problems".
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import Any, no_type_check

import numba
import numpy as np

from sae_core.matching.assignment_kernels import replace_smallest

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}


@numba.njit(**_SERIAL)
@no_type_check
def _reduced_costs(first, last, column, score, v, matched_column):
    """The smallest reduced cost of a row's edges, and that of its match (inf if it has none)."""
    smallest, matched = np.inf, np.inf
    for e in range(first, last):
        reduced = -score[e] - v[column[e]]
        smallest = min(smallest, reduced)
        if column[e] == matched_column:
            matched = reduced
    return smallest, matched


@numba.njit(**_SERIAL)
@no_type_check
def restore_tightness(start, column, score, u, v, partner, owner):
    """Lower u to what the edges allow and free the rows whose match is no longer tight; returns how many."""
    freed = 0
    for i in range(len(u)):
        smallest, matched = _reduced_costs(start[i], start[i + 1], column, score, v, partner[i])
        u[i] = smallest
        if partner[i] >= 0 and matched > smallest + 1e-12:
            owner[partner[i]] = -1
            partner[i] = -1
            freed += 1
    return freed


@numba.njit(**_SERIAL)
@no_type_check
def lower_to_feasible(start, column, score, u, v):
    """Set u to the most that the edges allow with the prices v; inf for rows without edges."""
    for i in range(len(u)):
        u[i], _ = _reduced_costs(start[i], start[i + 1], column, score, v, -1)


@numba.njit(**_SERIAL)
@no_type_check
def _two_smallest(first, last, column, score, v):
    """The two smallest reduced costs of a row's edges and their columns (inf, -1 where there is none)."""
    m1, m2, j1, j2 = np.inf, np.inf, -1, -1
    for e in range(first, last):
        reduced = -score[e] - v[column[e]]
        if reduced < m2:
            if reduced < m1:
                m1, m2, j1, j2 = reduced, m1, column[e], j1
            else:
                m2, j2 = reduced, column[e]
    return m1, m2, j1, j2


@numba.njit(**_SERIAL)
@no_type_check
def reduce_rows(start, column, score, u, v, partner, owner, n_passes, max_steps):
    """Augmenting row reduction (Jonker & Volgenant 1987): free rows take their cheapest column and raise its price.

    Leaves the prices feasible and the matches tight. Stops after ``max_steps``; what is free then is left so.
    """
    free = np.flatnonzero(partner < 0)
    n_free, steps = len(free), 0
    for _ in range(n_passes):
        n_now, n_free, k = n_free, 0, 0
        while k < n_now:
            i = free[k]
            k += 1
            steps += 1
            m1, m2, j1, j2 = _two_smallest(start[i], start[i + 1], column, score, v)
            if steps > max_steps or j2 < 0:
                free[n_free] = i
                n_free += 1
                continue
            lowered = v[j1] - (m2 - m1)
            strict = lowered < v[j1]  # false for ties, and for differences that rounding swallows
            if strict:
                v[j1] = lowered
            elif owner[j1] >= 0:
                j1 = j2
            evicted = owner[j1]
            partner[i], owner[j1] = j1, i
            if evicted >= 0:
                partner[evicted] = -1
                if strict:
                    k -= 1
                    free[k] = evicted
                else:
                    free[n_free] = evicted
                    n_free += 1
    for i in range(len(u)):
        smallest, matched = _reduced_costs(start[i], start[i + 1], column, score, v, partner[i])
        u[i] = matched if partner[i] >= 0 else smallest


@numba.njit(**_SERIAL)
@no_type_check
def _push(keys, items, size, key, item):
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if keys[parent] <= key:
            break
        keys[place] = keys[parent]
        items[place] = items[parent]
        place = parent
    keys[place] = key
    items[place] = item


@numba.njit(**_SERIAL)
@no_type_check
def _search(source, start, column, score, u, v, owner, distance, parent, closed, touched, keys, items):
    """Dijkstra on reduced costs from a free row to the nearest free column.

    distance, parent, closed (columns): what is known of a column; touched: the columns of which anything is, listed.
    keys, items: room for the heap. Every edge is relaxed at most once, so it never holds more entries than edges.

    Returns the free column (-1 if none can be reached), its distance, how many columns are listed as touched, and how
    many edges were looked at.
    """
    n_touched, size, n_scanned = 0, 0, 0
    i, base, sink, shortest = source, 0.0, -1, np.inf
    while True:
        n_scanned += start[i + 1] - start[i]
        for e in range(start[i], start[i + 1]):
            j = column[e]
            reached = base - score[e] - u[i] - v[j]
            if closed[j] or reached >= shortest or reached >= distance[j]:
                continue
            if distance[j] == np.inf:
                touched[n_touched] = j
                n_touched += 1
            distance[j], parent[j] = reached, i
            if owner[j] < 0:  # never on the heap: nothing farther is of interest from now on
                sink, shortest = j, reached
            else:
                _push(keys, items, size, reached, j)
                size += 1
        nearest = -1
        while size > 0 and nearest < 0:
            key, j = keys[0], items[0]
            size -= 1
            if size > 0:
                replace_smallest(keys[:size], items[:size], keys[size], items[size])
            if not closed[j] and key <= distance[j]:
                nearest = j
        if nearest < 0 or distance[nearest] >= shortest:
            return sink, shortest, n_touched, n_scanned
        closed[nearest] = True
        base, i = distance[nearest], owner[nearest]


@numba.njit(**_SERIAL)
@no_type_check
def augment(start, column, score, u, v, partner, owner, first, n_edges):
    """Match free rows from ``first`` on along shortest augmenting paths, until so many edges were looked at.

    A row fails when no free column can be reached over the listed edges; it stays free.

    Returns the row to go on from (the number of rows at the end), and how many rows failed.
    """
    n_columns = len(v)
    distance, parent = np.full(n_columns, np.inf), np.empty(n_columns, np.int64)
    closed, touched = np.zeros(n_columns, np.bool_), np.empty(n_columns, np.int64)
    keys, items = np.empty(len(column) + 1), np.empty(len(column) + 1, np.int64)
    n_failed, n_scanned = 0, 0
    for source in range(first, len(u)):
        if partner[source] >= 0:
            continue
        if n_scanned >= n_edges:
            return source, n_failed
        sink, shortest, n_touched, n_looked_at = _search(
            source, start, column, score, u, v, owner, distance, parent, closed, touched, keys, items
        )
        n_scanned += n_looked_at
        for t in range(n_touched):
            j = touched[t]
            if closed[j] and sink >= 0:  # prices along shorter paths move so that the shortest one becomes tight
                v[j] += distance[j] - shortest
                u[owner[j]] -= distance[j] - shortest
            distance[j] = np.inf
            closed[j] = False
        if sink < 0:
            n_failed += 1
            continue
        u[source] += shortest
        i, j = -1, sink
        while i != source:
            i = parent[j]
            owner[j] = i
            j, partner[i] = partner[i], j
    return len(u), n_failed
