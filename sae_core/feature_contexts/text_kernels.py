"""Numba kernels that write down examples: activations on every token, and text with the active tokens marked."""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import SERIAL

_LEFT, _RIGHT = ord("<"), ord(">")


@numba.njit(**SERIAL)
@no_type_check
def window_activations(code_start, token, activation, feature, begin, first, values):
    """Activations of a feature in each window, into ``values`` of zeros; those of window i from ``first[i]`` on."""
    for i in range(len(begin)):
        stop = begin[i] + first[i + 1] - first[i]
        low, high = code_start[feature[i]], code_start[feature[i] + 1]
        last = high
        while low < high:
            middle = (low + high) // 2
            if token[middle] < begin[i]:
                low = middle + 1
            else:
                high = middle
        while low < last and token[low] < stop:
            values[first[i] + token[low] - begin[i]] = activation[low]
            low += 1


@numba.njit(**SERIAL)
@no_type_check
def marked_sizes(piece_start, begin, first, marks):
    """Bytes of each window's text with two characters before and after each run of marked tokens."""
    sizes = np.zeros(len(begin), np.int64)
    for i in range(len(begin)):
        length = first[i + 1] - first[i]
        n = piece_start[begin[i] + length] - piece_start[begin[i]]
        for j in range(length):
            if marks[first[i] + j] and (j == 0 or not marks[first[i] + j - 1]):
                n += 4
        sizes[i] = n
    return sizes


@numba.njit(**SERIAL)
@no_type_check
def write_marked(pieces, piece_start, begin, first, marks, out_start, out):
    """Write each window's text, runs of marked tokens <<so>>; that of window i from ``out_start[i]`` on."""
    for i in range(len(begin)):
        at = out_start[i]
        length = first[i + 1] - first[i]
        for j in range(length):
            marked = marks[first[i] + j]
            if marked and (j == 0 or not marks[first[i] + j - 1]):
                out[at], out[at + 1] = _LEFT, _LEFT
                at += 2
            for b in range(piece_start[begin[i] + j], piece_start[begin[i] + j + 1]):
                out[at] = pieces[b]
                at += 1
            if marked and (j == length - 1 or not marks[first[i] + j + 1]):
                out[at], out[at + 1] = _RIGHT, _RIGHT
                at += 2
