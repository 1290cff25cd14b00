"""Numba kernels that select the codes of a batch from its pre-activations, exact ones or coarse ones.

The same rules hold as for ``sparse_kernels``: one thread writes a row, in one order. Positive floats are ordered as
their bits are, read as integers, and negative ones are negative: selection works on bits. ``coarse`` is the
``CoarseChunk`` of some tokens. Part of the training stage.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot
from sae_core.training.bit_masks import WIDTH, lowest_bit, mask_reaching
from sae_core.training.coarse_kernels import at_most, uncertainty

BLOCK = WIDTH
"""Entries of a row that are compared with a bound at once."""


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
def _kth_largest(bits, k):
    """The k-th largest, or 1 where fewer are positive."""
    bound = _lower_bound(bits, k, 0)
    if _count(bits, bound) < k:
        return np.int64(1)
    smallest = np.int32(0x7FFFFFFF)
    for j in range(len(bits)):
        if bits[j] >= bound:
            smallest = min(smallest, bits[j])
    return np.int64(smallest)


@numba.njit(**SERIAL)
@no_type_check
def _padded(n):
    """Entries of a row of n in whole blocks."""
    return (n + BLOCK - 1) // BLOCK * BLOCK


@numba.njit(**SERIAL)
@no_type_check
def _group_maxima(bits, k):
    """Maxima of groups of neighbours in a row of whole blocks, so many that there are twice k groups, if possible."""
    size = max(1, min(BLOCK, len(bits) // (2 * k)))
    maxima = np.empty((len(bits) + size - 1) // size, np.int32)
    for g in range(len(maxima)):
        part = bits[g * size : min(len(bits), (g + 1) * size)]
        largest = part[0]
        for j in range(len(part)):
            largest = max(largest, part[j])
        maxima[g] = largest
    return maxima


@numba.njit(**SERIAL)
@no_type_check
def _reaching(bits, bound, out):
    """Write which entries of a row of whole blocks are at least ``bound`` to ``out``, ascending; returns how many."""
    found, bound = 0, np.int32(bound)
    for start in range(0, len(bits), BLOCK):
        mask = mask_reaching(bits, start, bound)
        while mask != np.uint64(0):
            out[found] = start + lowest_bit(mask)
            found += 1
            mask &= mask - np.uint64(1)
    return found


@numba.njit(**SERIAL)
@no_type_check
def _take_largest(bits, index, k, feature, value, at):
    """Append the k largest positive of some entries, given as bits, to ``feature, value``; returns where they end.

    Of equal entries the first.
    """
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
def kth_largest(pre, k, bound):
    """A bound on bits that the k largest positive entries of each row of ``pre (batch, n)`` reach, and no others.

    Others only where entries are equal. When k groups have a maximum of at least some bound, so have the k largest.
    """
    n = pre.shape[1]
    for b in numba.prange(len(pre)):
        bits = np.empty(_padded(n), np.int32)
        bits[:n] = pre[b].view(np.int32)
        bits[n:] = np.int32(-1)
        candidates = np.empty(len(bits), np.int32)
        found = _reaching(bits, _lower_bound(_group_maxima(bits, k), k, k // 2), candidates)
        bound[b] = _kth_largest(bits[candidates[:found]], k)


@numba.njit(**SERIAL)
@no_type_check
def _upper(coarse, b):
    """The most that each pre-activation of token b can be, in whole blocks."""
    n = len(coarse[4])
    upper = np.empty(_padded(n), np.float32)
    at_most(coarse, b, upper[:n])
    upper[n:] = np.float32(-1)
    return upper


@numba.njit(**PARALLEL)
@no_type_check
def list_largest(coarse, k, count, feature, upper):
    """Features of each token that may be among its k largest, ascending, and the most that each can be.

    They are written to the first ``count[b]`` places of ``feature[b]`` and ``upper[b]``, which need n. When k
    pre-activations are at least some bound for certain, none that cannot reach it is among the k largest.
    """
    for b in numba.prange(len(count)):
        row = _upper(coarse, b)
        bits = row.view(np.int32)
        candidates = np.empty(len(bits), np.int32)
        found = _reaching(bits, _lower_bound(_group_maxima(bits, k), k, k // 2), candidates)
        certain = np.empty(found, np.float32)
        for p in range(found):
            certain[p] = row[candidates[p]] - uncertainty(coarse, b, candidates[p])
        bound = _kth_largest(certain.view(np.int32), k)
        count[b] = _reaching(bits, bound, candidates)
        for p in range(count[b]):
            feature[b, p], upper[b, p] = candidates[p], row[candidates[p]]


@numba.njit(**PARALLEL)
@no_type_check
def list_reaching(coarse, bound, count, feature, upper):
    """The same for features whose bits may be at least ``bound``."""
    for b in numba.prange(len(count)):
        row = _upper(coarse, b)
        candidates = np.empty(len(row), np.int32)
        count[b] = _reaching(row.view(np.int32), bound, candidates)
        for p in range(count[b]):
            feature[b, p], upper[b, p] = candidates[p], row[candidates[p]]


@numba.njit(**PARALLEL)
@no_type_check
def guess_largest(coarse, k, value):
    """About the k largest pre-activations of each token, roughly, to ``value (batch, k)``, or zeros.

    None is computed, so this is good for a guess.
    """
    for b in numba.prange(len(value)):
        row = _upper(coarse, b)
        bits = row.view(np.int32)
        candidates = np.empty(len(bits), np.int32)
        found = _reaching(bits, _lower_bound(_group_maxima(bits, k), k, k // 2), candidates)
        value[b] = np.float32(0)
        for p in range(min(k, found)):
            middle = row[candidates[p]] - uncertainty(coarse, b, candidates[p]) / np.float32(2)
            value[b, p] = max(value[b, p], middle)


@numba.njit(**SERIAL)
@no_type_check
def pack(count, feature, upper, packed_feature, packed_upper):
    """The runs of some tokens, one after another."""
    at = 0
    for b in range(len(count)):
        for p in range(count[b]):
            packed_feature[at], packed_upper[at] = feature[b, p], upper[b, p]
            at += 1


@numba.njit(**SERIAL)
@no_type_check
def order_by_feature(feature, first, order):
    """Places in ``feature``, sorted by it: those of feature i from ``first[i]`` to ``first[i + 1]``, ascending."""
    first[:] = 0
    for p in range(len(feature)):
        first[feature[p] + 1] += 1
    for i in range(len(first) - 1):
        first[i + 1] += first[i]
    at = first[:-1].copy()
    for p in range(len(feature)):
        i = feature[p]
        order[at[i]] = p
        at[i] += 1


@numba.njit(**PARALLEL)
@no_type_check
def compute(centred, w_enc, b_enc, first, order, token, wanted, value):
    """Exact pre-activations where ``wanted``, one feature after another: its row is read once."""
    for i in numba.prange(len(w_enc)):
        row, bias = w_enc[i], b_enc[i]
        for q in range(first[i], first[i + 1]):
            p = order[q]
            if wanted[p]:
                value[p] = dot(centred[token[p]], row) + bias


@numba.njit(**PARALLEL)
@no_type_check
def mark_first(start, end, value, k, wanted):
    """Mark about the k largest of each token, which lie from ``start[b]`` to ``end[b]``."""
    for b in numba.prange(len(start)):
        bits = value[start[b] : end[b]].view(np.int32)
        bound = _lower_bound(bits, k, k // 2)
        for p in range(len(bits)):
            wanted[start[b] + p] = bits[p] >= bound


@numba.njit(**PARALLEL)
@no_type_check
def mark_rest(start, end, value, k, wanted):
    """Mark, instead of those whose ``value`` is exact, others that may reach the k-th largest of them.

    When these are exact too, no other belongs to the k largest, though its ``value`` says more than it is.
    """
    for b in numba.prange(len(start)):
        bits, known = value[start[b] : end[b]].view(np.int32), wanted[start[b] : end[b]]
        exact, found = np.empty(len(bits), np.int32), 0
        for p in range(len(bits)):
            if known[p]:
                exact[found] = bits[p]
                found += 1
        bound = _kth_largest(exact[:found], k)
        for p in range(len(bits)):
            known[p] = not known[p] and bits[p] >= bound


@numba.njit(**PARALLEL)
@no_type_check
def take_largest(start, end, candidate, exact, k, taken_end, feature, value):
    """The k largest positive of the candidates of each token, which lie from ``start[b]`` to ``end[b]``.

    Those of token b go to ``feature, value`` from ``b * k`` on, up to ``taken_end[b]``; of equal ones the first.
    """
    for b in numba.prange(len(start)):
        bits, index = exact[start[b] : end[b]].view(np.int32), candidate[start[b] : end[b]]
        taken_end[b] = _take_largest(bits, index, k, feature, value, b * k)


@numba.njit(**PARALLEL)
@no_type_check
def count_reaching(pre, bound, count):
    """Entries of each row of ``pre (batch, n)`` whose bits are at least its ``bound``."""
    for b in numba.prange(len(pre)):
        count[b] = _count(pre[b].view(np.int32), bound[b])


@numba.njit(**PARALLEL)
@no_type_check
def select_reaching(pre, bound, start, feature, value):
    """Those entries, of row b from ``start[b]`` on, by feature."""
    for b in numba.prange(len(pre)):
        bits = pre[b].view(np.int32)
        at = start[b]
        for j in range(len(bits)):
            if bits[j] >= bound[b]:
                feature[at], value[at] = j, pre[b, j]
                at += 1
