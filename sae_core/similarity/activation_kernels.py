"""The numba kernels of the activation measure: sums over the tokens on which features are active."""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL


@numba.njit(**PARALLEL)
@no_type_check
def moments(start, value):
    """(n, 2): sum and sum of squares of the activations of every feature, ``value[start[i]:start[i + 1]]``."""
    out = np.zeros((len(start) - 1, 2))
    for i in numba.prange(len(start) - 1):
        total, squares = 0.0, 0.0
        for k in range(start[i], start[i + 1]):
            x = np.float64(value[k])
            total += x
            squares += x * x
        out[i, 0], out[i, 1] = total, squares
    return out


@numba.njit(**PARALLEL)
@no_type_check
def products(start_a, token_a, value_a, start_b, token_b, value_b, left, right):
    """(n,): inner product of the activations of features side by side; the tokens of a feature are ascending."""
    out = np.zeros(len(left))
    for i in numba.prange(len(left)):
        a, end_a = start_a[left[i]], start_a[left[i] + 1]
        b, end_b = start_b[right[i]], start_b[right[i] + 1]
        total = 0.0
        while a < end_a and b < end_b:
            if token_a[a] < token_b[b]:
                a += 1
            elif token_a[a] > token_b[b]:
                b += 1
            else:
                total += np.float64(value_a[a]) * np.float64(value_b[b])
                a += 1
                b += 1
        out[i] = total
    return out
