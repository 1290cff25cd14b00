"""Numba kernels of the update of an SAE: encoder and decoder rows, one feature at a time, while they lie in the cache.

The same rules hold as for ``sparse_kernels``: one thread writes a row, in one order. Rows are ``(d_sae, d_in)``, of
the encoder as of the decoder; ``optimiser`` says what the update is. The decay of a unit row lies along it and would
be taken away: it is not added, since Adam would make a step of what rounding leaves of it. Part of the training stage.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot

SMALLEST_LENGTH = np.float32(1e-30)
"""Decoder rows are divided by their length, or by this: a row that is zero stays zero."""


@numba.njit(**SERIAL)
@no_type_check
def _constrained(out, gradient, row, decay, direction, remove):
    """Write the gradient of a row with its decay to ``out``, without the part along ``direction`` if asked to."""
    if decay == 0:
        out[:] = gradient
    else:
        for c in range(len(out)):
            out[c] = gradient[c] + decay * row[c]
    if remove:
        along = dot(out, direction)
        for c in range(len(out)):
            out[c] -= along * direction[c]


@numba.njit(**PARALLEL)
@no_type_check
def squared_norms(enc, dec, enc_gradient, dec_gradient, decay, unit, aligned, squared):
    """Squared norm of each feature's gradient, both rows together, after decay and projections."""
    for i in numba.prange(len(dec)):
        out = np.empty(dec.shape[1], np.float32)
        _constrained(out, enc_gradient[i], enc[i], decay, dec[i], aligned)
        squared[i] = dot(out, out)
        _constrained(out, dec_gradient[i], dec[i], np.float32(0) if unit else decay, dec[i], unit)
        squared[i] += dot(out, out)


@numba.njit(**SERIAL)
@no_type_check
def adam(row, mean, square, gradient, clip, beta1, beta2, rate, root, epsilon):
    """Adam on one row: ``rate`` is the learning rate over the first bias correction, ``root`` that of the second."""
    one = np.float32(1)
    for c in range(len(row)):
        g = clip * gradient[c]
        mean[c] = beta1 * mean[c] + (one - beta1) * g
        square[c] = beta2 * square[c] + (one - beta2) * g * g
        row[c] -= rate * mean[c] / (np.sqrt(square[c]) / root + epsilon)


@numba.njit(**PARALLEL)
@no_type_check
def update_rows(
    enc, dec, enc_gradient, dec_gradient, enc_mean, enc_square, dec_mean, dec_square, decay, unit, aligned, numbers
):
    """Update all rows in place; ``numbers`` are clip, beta1, beta2, rate, root and epsilon, float32."""
    clip, beta1, beta2, rate, root, epsilon = numbers
    for i in numba.prange(len(dec)):
        e, d, g = enc[i], dec[i], np.empty(dec.shape[1], np.float32)
        _constrained(g, enc_gradient[i], e, decay, d, aligned)
        adam(e, enc_mean[i], enc_square[i], g, clip, beta1, beta2, rate, root, epsilon)
        _constrained(g, dec_gradient[i], d, np.float32(0) if unit else decay, d, unit)
        adam(d, dec_mean[i], dec_square[i], g, clip, beta1, beta2, rate, root, epsilon)
        if unit:
            length = max(np.sqrt(dot(d, d)), SMALLEST_LENGTH)
            for c in range(len(d)):
                d[c] /= length
        if aligned:
            missing = np.float32(1) - dot(e, d)
            for c in range(len(d)):
                e[c] += missing * d[c]
