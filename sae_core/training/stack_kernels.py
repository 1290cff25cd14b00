"""Numba kernels that train a stack of small SAEs on the same batches, many steps in a call. Part of the training stage.

One SAE of the stack is trained by one thread, which keeps it in its cache, in one order of sums: neither the number of
threads nor the rest of the stack changes a bit of it. No kernel has ``fastmath``: ``ordered_dots`` says why.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot
from sae_core.training.update_kernels import SMALLEST_LENGTH, adam

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's, as in ``optimiser``."""


@numba.njit(**SERIAL)
@no_type_check
def _encode(read, by_input, bias, pre):
    """Pre-activations of a sample: ``by_input (d_in, d_sae)`` holds the encoder so that features lie side by side."""
    pre[:] = bias
    whole = len(read) - len(read) % 4
    for i in range(0, whole, 4):  # four at a time: pre is read and written a quarter as often
        a, b, c, d = read[i], read[i + 1], read[i + 2], read[i + 3]
        row_a, row_b, row_c, row_d = by_input[i], by_input[i + 1], by_input[i + 2], by_input[i + 3]
        for j in range(len(pre)):
            pre[j] += (a * row_a[j] + b * row_b[j]) + (c * row_c[j] + d * row_d[j])
    for i in range(whole, len(read)):
        a, row_a = read[i], by_input[i]
        for j in range(len(pre)):
            pre[j] += a * row_a[j]


@numba.njit(**SERIAL)
@no_type_check
def _largest(pre, k, feature, value):
    """The k largest positive entries, largest first, of equal ones the first; returns how many there are."""
    n, least = 0, np.float32(0)
    for j in range(len(pre)):
        one = pre[j]
        if one > least:
            place = min(n, k - 1)
            n = min(n + 1, k)
            while place > 0 and value[place - 1] < one:
                value[place], feature[place] = value[place - 1], feature[place - 1]
                place -= 1
            value[place], feature[place] = one, j
            if n == k:
                least = value[k - 1]
    return n


@numba.njit(**SERIAL)
@no_type_check
def _positive(pre, feature, value):
    """All positive entries; returns how many there are. The arrays have a place more than ``pre``."""
    n = 0
    for j in range(len(pre)):
        feature[n], value[n] = j, pre[j]
        n += pre[j] > 0
    return n


@numba.njit(**SERIAL)
@no_type_check
def _add_gradients(
    batch, enc, dec, enc_bias, dec_bias, k, error_weight, penalty, by_enc, by_dec, by_enc_bias, by_dec_bias
):
    """Write the gradients of the loss on a batch; returns squared error, L1 and L0, means over samples.

    The loss is ``error_weight`` times the squared error summed over d_in, plus ``penalty`` times the sum of the codes,
    mean over samples.
    """
    (n_samples, d_in), d_sae = batch.shape, len(enc)
    by_input = np.empty((d_in, d_sae), np.float32)
    for i in range(d_in):
        for j in range(d_sae):
            by_input[i, j] = enc[j, i]
    pre, feature, value = np.empty(d_sae, np.float32), np.empty(d_sae + 1, np.int64), np.empty(d_sae + 1, np.float32)
    read, error = np.empty(d_in, np.float32), np.empty(d_in, np.float32)
    by_enc[:], by_dec[:], by_enc_bias[:], by_dec_bias[:] = 0, 0, 0, 0
    scale, each = np.float32(2 * error_weight / n_samples), np.float32(penalty / n_samples)
    squared, length, n_active = 0.0, 0.0, 0
    for b in range(n_samples):
        for i in range(d_in):
            read[i] = batch[b, i] - dec_bias[i]
        _encode(read, by_input, enc_bias, pre)
        n = _largest(pre, k, feature, value) if k > 0 else _positive(pre, feature, value)
        n_active += n
        for i in range(d_in):
            error[i] = -read[i]
        for p in range(n):
            one, row = value[p], dec[feature[p]]
            length += one
            for i in range(d_in):
                error[i] += one * row[i]
        squared += dot(error, error)
        for i in range(d_in):
            error[i] *= scale
            by_dec_bias[i] += error[i]
        for p in range(n):
            j, one = feature[p], value[p]
            by_code = dot(dec[j], error) + each
            by_enc_bias[j] += by_code
            to_enc, to_dec = by_enc[j], by_dec[j]
            for i in range(d_in):
                to_enc[i] += by_code * read[i]
                to_dec[i] += one * error[i]
    for j in range(d_sae):  # b_dec is also taken from what the encoder reads
        for i in range(d_in):
            by_dec_bias[i] -= by_enc_bias[j] * enc[j, i]
    return squared / n_samples, length / n_samples, n_active / n_samples


@numba.njit(**SERIAL)
@no_type_check
def _squared_norm(dec, unit, by_enc, by_dec, by_enc_bias, by_dec_bias):
    """Of all gradients, after those by unit rows have lost what lies along them."""
    total = dot(by_enc_bias, by_enc_bias) + dot(by_dec_bias, by_dec_bias)
    for j in range(len(dec)):
        if unit:
            along = dot(by_dec[j], dec[j])
            for i in range(dec.shape[1]):
                by_dec[j, i] -= along * dec[j, i]
        total += dot(by_enc[j], by_enc[j]) + dot(by_dec[j], by_dec[j])
    return total


@numba.njit(**PARALLEL)
@no_type_check
def advance(batches, weights, means, squares, first_step, rates, k, error_weight, penalty, unit, largest_norm, told):
    """Train every SAE of the stack on ``len(rates)`` batches, in place.

    Args:
        batches: ``(1 or n_saes, n_steps, batch, d_in)``; one sequence for all, or one each.
        weights: ``enc (n_saes, d_sae, d_in), dec (n_saes, d_sae, d_in), enc_bias (n_saes, d_sae),
            dec_bias (n_saes, d_in)``, float32; ``means`` and ``squares`` are Adam's, of the same shapes.
        first_step: steps done before.
        rates: learning rate of each step.
        k: features kept on a sample; 0 keeps every positive one.
        largest_norm: of the gradient of one SAE; 0 leaves it as it is.
        told: ``(n_saes, n_steps, 3)``: squared error, L1 and L0 of every batch, before its step.
    """
    enc, dec, enc_bias, dec_bias = weights
    for s in numba.prange(len(enc)):
        by_enc, by_dec = np.empty_like(enc[s]), np.empty_like(dec[s])
        by_enc_bias, by_dec_bias = np.empty_like(enc_bias[s]), np.empty_like(dec_bias[s])
        for t in range(len(rates)):
            told[s, t, 0], told[s, t, 1], told[s, t, 2] = _add_gradients(
                batches[s % len(batches), t], enc[s], dec[s], enc_bias[s], dec_bias[s], k, error_weight, penalty,
                by_enc, by_dec, by_enc_bias, by_dec_bias,
            )  # fmt: skip
            clip, beta1, beta2, epsilon = np.float32(1), np.float32(BETA1), np.float32(BETA2), np.float32(EPSILON)
            squared = _squared_norm(dec[s], unit, by_enc, by_dec, by_enc_bias, by_dec_bias)
            if largest_norm > 0 and squared > largest_norm * largest_norm:
                clip = np.float32(largest_norm / np.sqrt(squared))
            step = first_step + t + 1
            rate, root = np.float32(rates[t] / (1 - BETA1**step)), np.float32(np.sqrt(1 - BETA2**step))
            for j in range(enc.shape[1]):
                adam(enc[s, j], means[0][s, j], squares[0][s, j], by_enc[j], clip, beta1, beta2, rate, root, epsilon)
                adam(dec[s, j], means[1][s, j], squares[1][s, j], by_dec[j], clip, beta1, beta2, rate, root, epsilon)
                if unit:
                    length = max(np.sqrt(dot(dec[s, j], dec[s, j])), SMALLEST_LENGTH)
                    for i in range(dec.shape[2]):
                        dec[s, j, i] /= length
            adam(enc_bias[s], means[2][s], squares[2][s], by_enc_bias, clip, beta1, beta2, rate, root, epsilon)
            adam(dec_bias[s], means[3][s], squares[3][s], by_dec_bias, clip, beta1, beta2, rate, root, epsilon)
