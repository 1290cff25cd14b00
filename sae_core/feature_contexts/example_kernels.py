"""Numba kernels that choose examples: peaks, draws from quantiles, windows without any activation.

Codes are those of ``FeatureCodes``. A *slot* is ``2 * i + half`` for feature i. Draws depend on the slot's key and a
counter alone, so the order of slots does not matter.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba
import numpy as np

from sae_core.kernel_options import SERIAL


@numba.njit(**SERIAL)
@no_type_check
def below(key, counter, n):
    """A number in [0, n) out of a 64-bit key and a counter (splitmix64, Steele et al. 2014)."""
    z = np.uint64(key) + np.uint64(counter + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) % np.uint64(n))


@numba.njit(**SERIAL)
@no_type_check
def coprime_step(key, counter, n):
    """A step that visits all of n places before it comes back to the first."""
    step = 1 + below(key, counter, n)
    while True:
        a, b = step, n
        while b:
            a, b = b, a % b
        if a == 1:
            return step
        step += 1


@numba.njit(**SERIAL)
@no_type_check
def find_peaks(start, token, activation, window_begin, window_end):
    """Which codes are the largest of their feature in the window about them; of equal ones the first is."""
    found = np.zeros(len(token), np.bool_)
    for f in range(len(start) - 1):
        for i in range(start[f], start[f + 1]):
            low, high = window_begin[token[i]], window_end[token[i]]
            largest = True
            j = i - 1
            while largest and j >= start[f] and token[j] >= low:
                largest = activation[j] < activation[i]
                j -= 1
            j = i + 1
            while largest and j < start[f + 1] and token[j] < high:
                largest = activation[j] <= activation[i]
                j += 1
            found[i] = largest
    return found


@numba.njit(**SERIAL)
@no_type_check
def choose_peaks(start, segment, keys, n_strongest, n_quantiles, n_per_quantile, chosen):
    """Choose among each slot's peaks, the strongest first; those of slot s are ``start[s]:start[s + 1]``.

    Writes into ``chosen`` (slots, n_strongest + n_quantiles * n_per_quantile), all -1 before: the strongest, at most
    one of a segment; then draws from each quantile of the others, the strongest first.
    """
    for s in range(len(start) - 1):
        others = np.empty(start[s + 1] - start[s], np.int64)
        n_others, n_chosen = 0, 0
        for i in range(start[s], start[s + 1]):
            fresh = n_chosen < n_strongest
            for c in range(n_chosen):
                fresh = fresh and segment[chosen[s, c]] != segment[i]
            if fresh:
                chosen[s, n_chosen] = i
                n_chosen += 1
            else:
                others[n_others] = i
                n_others += 1
        counter = 0
        for q in range(n_quantiles):
            low, high = n_others * q // n_quantiles, n_others * (q + 1) // n_quantiles
            left, wanted, column = high - low, n_per_quantile, n_strongest + q * n_per_quantile
            for i in range(low, high):  # Knuth, The Art of Computer Programming 2, algorithm 3.4.2 S
                if below(keys[s], counter, left) < wanted:
                    chosen[s, column] = others[i]
                    column += 1
                    wanted -= 1
                counter += 1
                left -= 1


@numba.njit(**SERIAL)
@no_type_check
def pool_maxima(start, token, activation, place_of_token, maxima):
    """Largest activation of each feature in the window of each place, into ``maxima`` (features, places) of zeros."""
    for f in range(len(start) - 1):
        for i in range(start[f], start[f + 1]):
            p = place_of_token[token[i]]
            if p >= 0:
                maxima[f, p] = max(maxima[f, p], activation[i])


@numba.njit(**SERIAL)
@no_type_check
def draw_silent(maxima, first, last, keys, chosen):
    """Draw places, of ``first`` to ``last`` (excluded), where each feature is silent into ``chosen`` (features, n)."""
    n_places, n_wanted = last - first, chosen.shape[1]
    for f in range(len(chosen)):
        if n_places:
            place, step = below(keys[f], 0, n_places), coprime_step(keys[f], 1, n_places)
            n = 0
            for _ in range(n_places):
                if n == n_wanted:
                    break
                if maxima[f, first + place] == 0:
                    chosen[f, n] = first + place
                    n += 1
                place = (place + step) % n_places
