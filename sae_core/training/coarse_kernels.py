"""Numba kernels of the coarse pre-activations; the same rules hold as for ``sparse_kernels``.

Part of the training stage. Numba's cache does not notice changes of another file: ``selection_kernels`` must be
touched with this one.
"""

from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import PARALLEL, SERIAL
from sae_core.ordered_dots import dot

LARGEST = 127


@numba.njit(**SERIAL)
@no_type_check
def _largest_magnitude(bits):
    """Bits of the largest float without its sign; without a sign, floats are ordered as their bits are."""
    largest = np.int32(0)
    for c in range(len(bits)):
        largest = max(largest, np.int32(bits[c] & np.int32(0x7FFFFFFF)))
    return largest


@numba.njit(**PARALLEL)
@no_type_check
def quantise(rows, factors, whole, step, length, error):
    """Round rows times ``factors`` to multiples of ``step``, one for each row; norms of each row and its rounding."""
    for i in numba.prange(len(rows)):
        row, out, scaled = rows[i], whole[i], np.empty(rows.shape[1], np.float32)
        for c in range(len(scaled)):
            scaled[c] = row[c] * factors[c]
        length[i] = np.sqrt(dot(scaled, scaled))
        largest, bits = np.zeros(1, np.float32), scaled.view(np.int32)
        largest.view(np.int32)[0] = _largest_magnitude(bits)
        step[i] = max(largest[0], np.float32(1e-30)) / np.float32(LARGEST)
        inverse = np.float32(1) / step[i]
        for c in range(len(scaled)):
            rounded = np.rint(scaled[c] * inverse)
            out[c] = np.int8(np.int32(rounded))
            scaled[c] -= step[i] * rounded
        error[i] = np.sqrt(dot(scaled, scaled))


@numba.njit(**SERIAL)
@no_type_check
def at_most(coarse, b, upper):
    """Write the most that each exact pre-activation of token b can be to ``upper``; ``coarse`` is a ``CoarseChunk``."""
    product, step, length, error = coarse[0][b], coarse[1][b], coarse[2][b], coarse[3][b]
    row_step, row_length, row_error, bias = coarse[4], coarse[5], coarse[6], coarse[7]
    for j in range(len(upper)):
        wrong = error * row_length[j] + length * row_error[j]
        upper[j] = step * row_step[j] * np.float32(product[j]) + bias[j] + wrong


@numba.njit(**SERIAL)
@no_type_check
def uncertainty(coarse, b, j):
    """How far below that the exact pre-activation of feature j can be."""
    wrong = coarse[3][b] * coarse[5][j] + coarse[2][b] * coarse[6][j]
    return np.float32(2) * wrong + np.float32(2.0**-18) * abs(coarse[7][j])
