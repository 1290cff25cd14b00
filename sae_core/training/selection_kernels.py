"""Numba kernels that select the codes of a batch from pre-activations; ``encoder_products`` computes those.

The same rules hold as for ``sparse_kernels``: one thread writes a row, in one order. Part of the training stage.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot


@numba.njit(**SERIAL)
@no_type_check
def _count(bits, bound):
    total = 0
    for j in range(len(bits)):
        total += bits[j] >= bound
    return total


@numba.njit(**SERIAL)
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


@numba.njit(**SERIAL)
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


@numba.njit(**SERIAL)
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


@numba.njit(**SERIAL)
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


@numba.njit(**PARALLEL)
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


@numba.njit(**PARALLEL)
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


@numba.njit(**PARALLEL)
@no_type_check
def count_positive(pre, count):
    """Positive entries of each row."""
    for b in numba.prange(len(pre)):
        found = 0
        for j in range(pre.shape[1]):
            found += pre[b, j] > 0
        count[b] = found


@numba.njit(**PARALLEL)
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
