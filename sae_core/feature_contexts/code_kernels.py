"""Numba kernels of the pass over the activations: active codes out of dense ones, means over windows."""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL


@numba.njit(**PARALLEL)
@no_type_check
def count_active(codes):
    """Codes above zero in each row."""
    counts = np.zeros(len(codes), np.int64)
    for i in numba.prange(len(codes)):
        n = 0
        for value in codes[i]:
            n += value > 0
        counts[i] = n
    return counts


@numba.njit(**PARALLEL)
@no_type_check
def take_active(codes, tokens, first, token, feature, activation):
    """Write token, feature and value of the codes above zero; those of row i from ``first[i]`` on."""
    for i in numba.prange(len(codes)):
        at = first[i]
        for j in range(codes.shape[1]):
            if codes[i, j] > 0:
                token[at], feature[at], activation[at] = tokens[i], j, codes[i, j]
                at += 1


@numba.njit(**SERIAL)
@no_type_check
def add_rows(place, rows, sums, counts):
    """Add each row to the sum of its place, unless that is -1, and count it there."""
    for i in range(len(place)):
        p = place[i]
        if p >= 0:
            counts[p] += 1
            for j in range(rows.shape[1]):
                sums[p, j] += rows[i, j]
