"""Numba kernels that add up activations by token or word: telling words, and silent windows about the same tokens.

Codes are those of ``FeatureCodes``; a *slot* is ``2 * i + half`` for feature i. Sums run over tokens in ascending
order, so the number of threads changes no bit.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import no_type_check

import numba
import numpy as np

from sae_core.feature_contexts.example_kernels import below, coprime_step
from sae_core.kernel_options import PARALLEL, SERIAL

_N_PARTS = 16
"""Parts of the features; each has one table of sums."""
_MOST_TOKENS = 32
"""Distinct tokens that silent windows are looked for about: those on which the feature is most active in all."""
_MOST_TRIES = 32
"""Places of each that are looked at."""


@numba.njit(**SERIAL)
@no_type_check
def _largest(values, ids, n):
    """The n of some distinct ids with the largest values, the largest first; of equal ones the smaller id."""
    best = np.empty(min(n, len(ids)), np.int64)
    filled = 0
    for i in ids:
        at = filled
        while at > 0:
            other = best[at - 1]
            if values[other] > values[i] or (values[other] == values[i] and other < i):
                break
            at -= 1
        if at < len(best):
            filled = min(filled + 1, len(best))
            for j in range(filled - 1, at, -1):
                best[j] = best[j - 1]
            best[at] = i
    return best


@numba.njit(**PARALLEL)
@no_type_check
def telling_words(start, token, activation, half, word, expected, chosen, shares, scores):
    """The words with the largest ``share * log(share / expected)`` of each slot, into (slots, n), ``chosen`` all -1
    before. A share is that of the slot's squared activation; ``word`` is -1 for tokens without one."""
    for part in numba.prange(_N_PARTS):
        sums, score = np.zeros(len(expected)), np.zeros(len(expected))
        seen = np.empty(len(expected), np.int64)
        for f in range(part, len(start) - 1, _N_PARTS):
            for h in range(2):
                n_seen, total = 0, 0.0
                for i in range(start[f], start[f + 1]):
                    if half[token[i]] == h:
                        square = np.float64(activation[i]) ** 2
                        total += square
                        w = word[token[i]]
                        if w >= 0:
                            if sums[w] == 0:
                                seen[n_seen] = w
                                n_seen += 1
                            sums[w] += square
                for w in seen[:n_seen]:
                    score[w] = sums[w] / total * np.log(sums[w] / total / expected[w])
                best = _largest(score, seen[:n_seen], chosen.shape[1])
                for i in range(len(best)):
                    chosen[2 * f + h, i] = best[i]
                    shares[2 * f + h, i] = sums[best[i]] / total
                    scores[2 * f + h, i] = score[best[i]]
                for w in seen[:n_seen]:
                    sums[w] = 0


@numba.njit(**SERIAL)
@no_type_check
def _is_silent(token, first, last, window_begin, window_end):
    """Whether none of the ascending ``token[first:last]`` lies in a window."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if token[middle] < window_begin:
            low = middle + 1
        else:
            high = middle
    return low == last or token[low] >= window_end


@numba.njit(**SERIAL)
@no_type_check
def _draw_about(ids, occurrence_start, occurrences, key, token, first, last, window_begin, window_end, chosen):
    """Draw occurrences of some tokens in turn, with windows that are silent and do not overlap."""
    n = 0
    for attempt in range(_MOST_TRIES):
        for i in range(len(ids)):
            begin, n_places = occurrence_start[ids[i]], occurrence_start[ids[i] + 1] - occurrence_start[ids[i]]
            if n == len(chosen) or attempt >= n_places:
                continue
            step = coprime_step(key, 2 * i, n_places)
            at = occurrences[begin + (below(key, 2 * i + 1, n_places) + attempt * step) % n_places]
            fresh = _is_silent(token, first, last, window_begin[at], window_end[at])
            for c in chosen[:n]:
                fresh = fresh and (window_end[c] <= window_begin[at] or window_begin[c] >= window_end[at])
            if fresh:
                chosen[n] = at
                n += 1


@numba.njit(**PARALLEL)
@no_type_check
def draw_same_token(
    start, token, activation, half, token_ids, occurrence_start, occurrences, window_begin, window_end, keys, chosen
):
    """Draw tokens that each slot's feature fires on elsewhere, in silent windows, into ``chosen`` (slots, n) of -1.

    ``occurrences`` are tokens of the text; those of half h and id t are ``occurrence_start[h, t]`` to the next.
    """
    n_ids = occurrence_start.shape[1] - 1
    for part in numba.prange(_N_PARTS):
        sums, seen = np.zeros(n_ids), np.empty(n_ids, np.int64)
        for f in range(part, len(start) - 1, _N_PARTS):
            for h in range(2):
                n_seen = 0
                for i in range(start[f], start[f + 1]):
                    if half[token[i]] == h:
                        t = token_ids[token[i]]
                        if sums[t] == 0:
                            seen[n_seen] = t
                            n_seen += 1
                        sums[t] += activation[i]
                ids = _largest(sums, seen[:n_seen], _MOST_TOKENS)
                for t in seen[:n_seen]:
                    sums[t] = 0
                _draw_about(
                    ids, occurrence_start[h], occurrences, keys[2 * f + h], token, start[f], start[f + 1], window_begin,
                    window_end, chosen[2 * f + h],
                )  # fmt: skip
