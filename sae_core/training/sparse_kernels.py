"""Numba kernels of the sparse training step behind the selection of codes (``selection_kernels``).

Codes are held as runs of (feature, value) pairs: those of token b lie between ``start[b]`` and ``end[b]``. Every
kernel writes one row (a token's or a feature's) in one thread and sums in one order, so the number of threads
changes no bit. Nor does the compiler: no kernel has ``fastmath``, ``ordered_dots`` says why. Part of the training
stage; ``training_gradients`` puts the kernels together.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot


@numba.njit(inline="always")
@no_type_check
def _add_rows(out, rows, index, factor, start, end):
    """``out += sum over p of factor[p] * rows[index[p]]``; four rows at a time, which saves loads and stores of out."""
    p = start
    while p + 4 <= end:
        r0, r1, r2, r3 = rows[index[p]], rows[index[p + 1]], rows[index[p + 2]], rows[index[p + 3]]
        f0, f1, f2, f3 = factor[p], factor[p + 1], factor[p + 2], factor[p + 3]
        for c in range(out.shape[0]):
            out[c] += f0 * r0[c] + f1 * r1[c] + f2 * r2[c] + f3 * r3[c]
        p += 4
    while p < end:
        row, f = rows[index[p]], factor[p]
        for c in range(out.shape[0]):
            out[c] += f * row[c]
        p += 1


@numba.njit(**PARALLEL)
@no_type_check
def reconstruct(x, b_dec, w_dec, start, end, feature, value, penalty, error_gradient, value_gradient, squared_error):
    """Squared error of each token, its gradient by the reconstruction, and the gradient of the loss by each code.

    The loss is the mean over tokens of squared error plus ``penalty`` times the sum of codes.
    """
    n_tokens, d_in = x.shape
    factor = np.float32(2.0 / n_tokens)
    penalty = np.float32(penalty / n_tokens)
    for b in numba.prange(n_tokens):
        g = error_gradient[b]
        for c in range(d_in):
            g[c] = b_dec[c] - x[b, c]
        _add_rows(g, w_dec, feature, value, start[b], end[b])
        error = np.ascontiguousarray(g)
        squared_error[b] = dot(error, error)
        for p in range(start[b], end[b]):
            value_gradient[p] = factor * dot(error, w_dec[feature[p]]) + penalty
        for c in range(d_in):
            g[c] *= factor


@numba.njit(**SERIAL)
@no_type_check
def by_feature(start, end, feature, value, value_gradient, first, token, values, gradients):
    """The same codes by feature, then by token: those of feature i lie from ``first[i]`` to ``first[i + 1]``."""
    n_features = len(first) - 1
    first[:] = 0
    for b in range(len(start)):
        for p in range(start[b], end[b]):
            first[feature[p] + 1] += 1
    for i in range(n_features):
        first[i + 1] += first[i]
    at = first[:-1].copy()
    for b in range(len(start)):
        for p in range(start[b], end[b]):
            q = at[feature[p]]
            at[feature[p]] = q + 1
            token[q] = b
            values[q] = value[p]
            gradients[q] = value_gradient[p]


@numba.njit(**PARALLEL)
@no_type_check
def weight_gradients(
    centred, error_gradient, first, token, values, gradients, enc_gradient, dec_gradient, bias_gradient
):
    """Gradients by encoder and decoder rows ``(d_sae, d_in)`` and encoder bias, one feature at a time."""
    for i in numba.prange(len(first) - 1):
        enc_gradient[i] = np.float32(0)
        dec_gradient[i] = np.float32(0)
        _add_rows(enc_gradient[i], centred, token, gradients, first[i], first[i + 1])
        _add_rows(dec_gradient[i], error_gradient, token, values, first[i], first[i + 1])
        total = np.float32(0)
        for p in range(first[i], first[i + 1]):
            total += gradients[p]
        bias_gradient[i] = total
