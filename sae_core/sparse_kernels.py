"""Numba kernels of the sparse training step; the encoder product that feeds them is in ``encoder_products``.

Codes are held as runs of (feature, value) pairs: those of token b lie between ``start[b]`` and ``end[b]``. Every
kernel writes one row (a token's or a feature's) in one thread and sums in one order, so the number of threads
changes no bit. Nor does the compiler: no kernel has ``fastmath``, ``ordered_dots`` says why. Part of the training
stage; ``training_gradients`` puts the kernels together.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, no_type_check

import numba
import numpy as np
import torch

from sae_core.ordered_dots import dot

_SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_PARALLEL: dict[str, Any] = {**_SERIAL, "parallel": True}


@contextmanager
def torch_threads() -> Iterator[None]:
    """Run kernels on as many threads as torch is allowed."""
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@numba.njit(**_SERIAL)
@no_type_check
def _count(bits, bound):
    total = 0
    for j in range(len(bits)):
        total += bits[j] >= bound
    return total


@numba.njit(**_SERIAL)
@no_type_check
def _lower_bound(bits, k, slack):
    """A positive bound that at least k, and when possible at most ``k + slack``, entries reach; 1 when fewer do.

    By bisection: counting runs at the speed of the vector unit, which partitioning does not.
    """
    low = np.int64(1)
    if len(bits) == 0 or _count(bits, low) <= k + slack:
        return low
    high = np.int64(bits.max()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        found = _count(bits, middle)
        if found < k:
            high = middle
        else:
            low = middle
            if found <= k + slack:
                break
    return low


@numba.njit(**_SERIAL)
@no_type_check
def _group_maxima(bits, k):
    """Maxima of groups of entries, about eight groups for each of k; group j is j, j + n_groups, j + 2 n_groups, ..."""
    n = len(bits)
    n_groups = n // max(1, min(64, n // (8 * k)))
    maxima = bits[:n_groups].copy()
    for first in range(n_groups, n, n_groups):
        for j in range(min(n_groups, n - first)):
            maxima[j] = max(maxima[j], bits[first + j])
    return maxima


@numba.njit(**_SERIAL)
@no_type_check
def _reaching(bits, maxima, bound, out):
    """Write which entries are at least ``bound`` to ``out``, looking only at groups that reach it; returns how many."""
    found = 0
    for j in range(len(maxima)):
        if maxima[j] >= bound:
            for e in range(j, len(bits), len(maxima)):
                out[found] = e
                found += bits[e] >= bound
    return found


@numba.njit(**_SERIAL)
@no_type_check
def _take_largest(bits, index, k, feature, value, at):
    """Append the k largest positive of some entries, given as bits, to ``feature, value``; returns where they end."""
    bound = _lower_bound(bits, k, 0)
    n_equal = k - _count(bits, bound + 1)
    values = bits.view(np.float32)
    for p in range(len(bits)):
        n_equal -= bits[p] == bound
        if bits[p] > bound or (bits[p] == bound and n_equal >= 0):
            feature[at], value[at] = index[p], values[p]
            at += 1
    return at


@numba.njit(**_PARALLEL)
@no_type_check
def select_largest(pre, k, end, feature, value):
    """The k largest positive entries of each row of ``pre (batch, n)``, float32; of equal ones some, always the same.

    Row b goes to ``feature, value`` from ``b * k`` on, up to ``end[b]``. Exact: when k groups have a maximum of at
    least some bound, so have the k largest entries.
    """
    n = pre.shape[1]
    for b in numba.prange(len(pre)):
        bits = pre[b].view(np.int32)  # positive floats are ordered as their bits are, and negative ones are negative
        maxima = _group_maxima(bits, k)
        candidates = np.empty(n + 1, np.int32)
        found = _reaching(bits, maxima, _lower_bound(maxima, k, k // 2), candidates)
        end[b] = _take_largest(bits[candidates[:found]], candidates, k, feature, value, b * k)


@numba.njit(**_PARALLEL)
@no_type_check
def select_largest_of_coarse(coarse, error, centred, w_enc, b_enc, k, end, feature, value):
    """``select_largest`` of exact pre-activations, when coarse ones are known: bfloat16 bits, ``coarse (batch, n)``.

    An exact pre-activation lies within ``error[b]`` plus 2^-8 of the coarse one. So whatever is too far below the
    k-th largest coarse one cannot be among the k largest; all others are computed exactly, in float32, and chosen from.
    """
    n = coarse.shape[1]
    rounding = np.float32(2.0**-8)
    for b in numba.prange(len(coarse)):
        bits = np.empty(n, np.int32)
        for j in range(n):
            bits[j] = np.int32(coarse[b, j]) << 16
        pre = bits.view(np.float32)
        maxima = _group_maxima(bits, k)
        candidates = np.empty(n + 1, np.int32)
        found = _reaching(bits, maxima, _lower_bound(maxima, k, k // 2), candidates)
        kth = np.empty(1, np.int32)
        kth[0] = _lower_bound(bits[candidates[:found]], k, 0)
        cut = (kth.view(np.float32)[0] * (1 - rounding) - 2 * error[b]) / (1 + rounding)
        if cut > 0:
            kth.view(np.float32)[0] = cut
            found = _reaching(bits, maxima, kth[0], candidates)
        else:  # fewer than k are certainly positive: all that may be
            found = 0
            for j in range(n):
                candidates[found] = j
                found += not pre[j] < -2 * error[b]
        exact = np.empty(found, np.float32)
        x = np.ascontiguousarray(centred[b])
        for p in range(found):
            exact[p] = dot(x, w_enc[candidates[p]]) + b_enc[candidates[p]]
        end[b] = _take_largest(exact.view(np.int32), candidates, k, feature, value, b * k)


@numba.njit(**_PARALLEL)
@no_type_check
def count_positive(pre, count):
    """Positive entries of each row."""
    for b in numba.prange(len(pre)):
        found = 0
        for j in range(pre.shape[1]):
            found += pre[b, j] > 0
        count[b] = found


@numba.njit(**_PARALLEL)
@no_type_check
def select_positive(pre, start, feature, value):
    """The positive entries of each row, in ascending order of the feature; row b from ``start[b]`` on."""
    for b in numba.prange(len(pre)):
        at = start[b]
        for j in range(pre.shape[1]):
            if pre[b, j] > 0:
                feature[at] = j
                value[at] = pre[b, j]
                at += 1


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


@numba.njit(**_PARALLEL)
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


@numba.njit(**_SERIAL)
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


@numba.njit(**_PARALLEL)
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
