"""Numba kernels that read blocks of cosines once: nearest features, and the nearest few. Part of *consistency*."""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import Any, no_type_check

import numba

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}


@numba.njit(**_SERIAL)
@no_type_check
def nearest_both_ways(cosine, first, threshold, best, nearest, above):
    """Update the nearest other feature of rows and columns of a block of a symmetric matrix.

    cosine (r, c): rows first, first + 1, ... against columns from first on; only what is right of the diagonal is
    read. best, nearest (n): largest absolute cosine so far and where, the first of equals. above (r): whether a row has
    an absolute cosine above the threshold there.
    """
    n_rows, n_columns = cosine.shape
    for i in range(n_rows):
        row, column_best = cosine[i], best[first:]
        row_best, row_nearest = best[first + i], nearest[first + i]
        for j in range(i + 1, n_columns):
            value = abs(row[j])
            if value > row_best:
                row_best, row_nearest = value, first + j
            if value > column_best[j]:
                column_best[j] = value
                nearest[first + j] = first + i
        best[first + i], nearest[first + i] = row_best, row_nearest
        above[i] = False
        if row_best > threshold:
            for j in range(i + 1, n_columns):
                if abs(row[j]) > threshold:
                    above[i] = True
                    break


@numba.njit(**_SERIAL)
@no_type_check
def largest_few(cosine, values, places):
    """Of every row of cosine (r, c) the largest absolute values (r, k), descending, and their columns; k <= c.

    Of equals the first. values and places are overwritten.
    """
    k = values.shape[1]
    for i in range(cosine.shape[0]):
        row, kept, at = cosine[i], values[i], places[i]
        kept[:] = -1
        for j in range(len(row)):
            value = abs(row[j])
            if value > kept[k - 1]:
                place = k - 1
                while place > 0 and kept[place - 1] < value:
                    kept[place], at[place] = kept[place - 1], at[place - 1]
                    place -= 1
                kept[place], at[place] = value, j
