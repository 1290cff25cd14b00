"""Numba kernels of the sparse training step behind the selection of codes (``selection_kernels``).

Codes are held as runs of (feature, value) pairs: those of token b lie between ``start[b]`` and ``end[b]``. Every
kernel writes one row (a token's or a feature's) in one thread and sums in one order, so the number of threads
changes no bit. Nor does the compiler: no kernel has ``fastmath``, ``ordered_dots`` says why. Part of the training
stage; ``closed_form`` gives them arrays.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot
from sae_core.training.row_sums import sum_rows

TOKENS_IN_CACHE = 512
"""Tokens whose inputs and errors a core's cache holds about."""
MANY = 32
"""Codes of a feature, on average, above which features take turns on so many tokens: then each is used often. Below,
reading and writing what was summed so far costs more."""


@numba.njit(inline="always")
@no_type_check
def _dictionary_of(feature, nested_end):
    """The smallest nested dictionary that has a feature."""
    j = 0
    while feature >= nested_end[j]:
        j += 1
    return j


@numba.njit(**PARALLEL)
@no_type_check
def reconstruct(target, w_dec, start, end, feature, value, nested_end, weight, gradient, by_code, squared_error):
    """Squared errors ``(n, batch)`` of n nested dictionaries, and the gradient of their weighted mean over tokens.

    Dictionary j consists of the features before ``nested_end[j]``. What a feature writes is in every dictionary that
    has it: ``gradient[j]`` is the gradient by what those write that dictionary j - 1 does not have.
    """
    n_nested, n_tokens, d_in = gradient.shape
    for b in numba.prange(n_tokens):
        index, factor = np.empty(end[b] - start[b], np.int32), np.empty(end[b] - start[b], np.float32)
        n_written, first_feature = 0, 0
        for j in range(n_nested):
            error, n_before = gradient[j, b], n_written
            for p in range(start[b], end[b]):
                if first_feature <= feature[p] < nested_end[j]:
                    index[n_written], factor[n_written] = feature[p], value[p]
                    n_written += 1
            first_feature = nested_end[j]
            for c in range(d_in):
                error[c] = gradient[j - 1, b, c] if j else -target[b, c]
            sum_rows(error, w_dec, index, factor, n_before, n_written, error)
            squared_error[j, b] = dot(error, error)
        for j in range(n_nested - 1, -1, -1):
            scale, by_written = np.float32(2.0 / n_tokens) * weight[j], gradient[j, b]
            for c in range(d_in):
                by_written[c] *= scale
            if j + 1 < n_nested:
                for c in range(d_in):
                    by_written[c] += gradient[j + 1, b, c]
        for p in range(start[b], end[b]):
            by_code[p] = dot(gradient[_dictionary_of(feature[p], nested_end), b], w_dec[feature[p]])


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
    read, gradient, nested_end, first, token, values, gradients, add, enc_gradient, dec_gradient, bias_gradient
):
    """Gradients by encoder and decoder rows ``(d_sae, d_in)`` and by the encoder's bias, feature by feature.

    Args:
        read: what the encoder sees.
        gradient: as from ``reconstruct``.
        gradients: by the pre-activation of each code.
        add: to what is there already.
    """
    n_features, n_tokens = len(first) - 1, len(read)
    zeros, done = np.zeros(read.shape[1], np.float32), first[:-1].copy()
    step = TOKENS_IN_CACHE if len(token) > MANY * n_features else n_tokens
    for end in range(step, n_tokens + step, step):
        for i in numba.prange(n_features):
            p, q = done[i], done[i]
            while q < first[i + 1] and token[q] < end:
                q += 1
            done[i] = q
            fresh = end == step and not add
            if p == q and not fresh:
                continue
            enc_start, dec_start = (zeros, zeros) if fresh else (enc_gradient[i], dec_gradient[i])
            sum_rows(enc_start, read, token, gradients, p, q, enc_gradient[i])
            sum_rows(dec_start, gradient[_dictionary_of(i, nested_end)], token, values, p, q, dec_gradient[i])
            total = np.float32(0) if fresh else bias_gradient[i]
            for r in range(p, q):
                total += gradients[r]
            bias_gradient[i] = total


@numba.njit(**PARALLEL)
@no_type_check
def select_largest(pre, features, k, end, feature, value):
    """The k largest positive entries of each row of ``pre (batch, n)``; of equal ones the first.

    Row b goes to ``feature, value`` from ``b * k`` on, up to ``end[b]``; ``features`` says of which feature each
    column is. For rows of which a large part is selected.
    """
    for b in numba.prange(len(pre)):
        bits = pre[b].view(np.int32)  # positive floats are ordered as their bits are, and negative ones are negative
        low, high = np.int32(1), np.int32(max(np.int32(1), bits.max()))
        while low < high:  # at least k entries reach low, or low is 1; fewer than k exceed high
            middle = np.int32(high - (high - low) // 2)
            found = 0
            for c in range(len(bits)):
                found += bits[c] >= middle
            if found >= k:
                low = middle
            if found == k:
                break
            if found < k:
                high = np.int32(middle - 1)
        n_equal = k
        for c in range(len(bits)):
            n_equal -= bits[c] > low
        at = b * k
        for c in range(len(bits)):
            n_equal -= bits[c] == low
            if bits[c] > low or (bits[c] == low and n_equal >= 0):
                feature[at], value[at] = features[c], pre[b, c]
                at += 1
        end[b] = at
