"""Numba kernels of the rule search: greedy choice of clauses, with exact counts of what several of them match together.

Values of attributes are numbers; ``columns[t, k]`` is one of token t, or -1. The tokens with value v are
``match_token[match_start[v]:match_start[v + 1]]``.
"""

# ``no_type_check``: a run-time type checker must not wrap functions that numba compiles.
from typing import NamedTuple, no_type_check

import numba
import numpy as np

from sae_core.kernel_options import SERIAL


class Scratch(NamedTuple):
    """Working memory of a search, all zero between two searches."""

    mass: np.ndarray
    """By value: activation on tokens that match and that no chosen clause matches."""
    fired: np.ndarray
    """By value: such tokens on which the feature fires."""
    repeated: np.ndarray
    """By value: tokens that match, of those that a chosen clause matches."""
    activation: np.ndarray
    """By token."""
    covered: np.ndarray
    """By token: whether a chosen clause matches."""


def make_scratch(n_values: int, n_tokens: int) -> Scratch:
    """Working memory for so many values and tokens."""
    fired, repeated = np.zeros(n_values, np.int32), np.zeros(n_values, np.int32)
    return Scratch(np.zeros(n_values), fired, repeated, np.zeros(n_tokens, np.float32), np.zeros(n_tokens, np.bool_))


@numba.njit(**SERIAL)
@no_type_check
def choose_clauses(
    tokens, activations, columns, match_start, match_token, n_clauses, min_fired, min_precision, scratch
):
    """Numbers of the values chosen, and for each: activation and firing tokens among those it matches.

    Values with fewer than ``min_fired`` firing tokens, or a share of them below ``min_precision``, are not considered.
    A clause is added as long as one raises the F1 score; ties go to the smaller number.
    """
    values, total = _count(tokens, activations, columns, scratch)
    values = _worth(values, match_start, min_fired, min_precision, scratch)
    chosen, sums = np.empty(n_clauses, np.int64), np.empty((n_clauses, 2))
    reached, n_fired, n_matching, score = 0.0, 0, 0, 0.0
    n = 0
    while n < n_clauses:
        best, score = _best(values, match_start, scratch, score, reached, n_fired, n_matching, total)
        if best < 0:
            break
        chosen[n] = best
        reached += scratch.mass[best]
        n_fired += scratch.fired[best]
        n_matching += match_start[best + 1] - match_start[best] - scratch.repeated[best] + 1
        sums[n, 0], sums[n, 1] = _cover(match_token[match_start[best] : match_start[best + 1]], columns, scratch)
        n += 1
    for i in range(n):
        _uncover(match_token[match_start[chosen[i]] : match_start[chosen[i] + 1]], columns, scratch)
    _forget(tokens, columns, scratch)
    return chosen[:n], sums[:n]


@numba.njit(**SERIAL)
@no_type_check
def _count(tokens, activations, columns, scratch):
    """Add up what the feature does on the tokens with each value: the values it fires on, and its whole activation."""
    values, n, total = np.empty(columns.shape[1] * len(tokens), np.int64), 0, 0.0
    for i in range(len(tokens)):
        token, activation = tokens[i], activations[i]
        scratch.activation[token] = activation
        total += activation
        for k in range(columns.shape[1]):
            v = columns[token, k]
            if v >= 0:
                if scratch.fired[v] == 0:
                    values[n] = v
                    n += 1
                scratch.fired[v] += 1
                scratch.mass[v] += activation
    return values[:n], total


@numba.njit(**SERIAL)
@no_type_check
def _worth(values, match_start, min_fired, min_precision, scratch):
    """The values that may become clauses."""
    n = 0
    for v in values:
        if scratch.fired[v] >= min_fired and scratch.fired[v] >= min_precision * (match_start[v + 1] - match_start[v]):
            values[n] = v
            n += 1
    return values[:n]


@numba.njit(**SERIAL)
@no_type_check
def _best(values, match_start, scratch, score, reached, n_fired, n_matching, total):
    """The value that raises the F1 score most, and the score with it; -1 if none does.

    Every clause counts as matching one token more than it does, so that a word seen once is no perfect clause.
    """
    best = -1
    for v in values:
        if scratch.fired[v] == 0:
            continue
        matching = n_matching + match_start[v + 1] - match_start[v] - scratch.repeated[v] + 1
        recall, precision = (reached + scratch.mass[v]) / total, (n_fired + scratch.fired[v]) / matching
        f1 = 2 * recall * precision / (recall + precision)
        if f1 > score or (f1 == score and best >= 0 and v < best):
            best, score = v, f1
    return best, score


@numba.njit(**SERIAL)
@no_type_check
def _cover(matching, columns, scratch):
    """Take the tokens of a new clause out of the sums of all values; activation and firing tokens among them."""
    mass, fired = 0.0, 0
    for token in matching:
        activation = scratch.activation[token]
        mass += activation
        fired += activation > 0
        if not scratch.covered[token]:
            scratch.covered[token] = True
            for k in range(columns.shape[1]):
                v = columns[token, k]
                if v >= 0:
                    scratch.repeated[v] += 1
                    scratch.mass[v] -= activation
                    scratch.fired[v] -= activation > 0
    return mass, fired


@numba.njit(**SERIAL)
@no_type_check
def _uncover(matching, columns, scratch):
    for token in matching:
        scratch.covered[token] = False
        for k in range(columns.shape[1]):
            if columns[token, k] >= 0:
                scratch.repeated[columns[token, k]] = 0


@numba.njit(**SERIAL)
@no_type_check
def _forget(tokens, columns, scratch):
    for token in tokens:
        scratch.activation[token] = 0
        for k in range(columns.shape[1]):
            if columns[token, k] >= 0:
                scratch.fired[columns[token, k]] = 0
                scratch.mass[columns[token, k]] = 0
