"""What matched pairs are set against: decoys and shuffled partners, both of nearly the partner's frequency."""

import numpy as np
from jaxtyping import Float, Int64

from sae_core.similarity.permutation import frequency_strata

_RANKS = 20
"""A decoy is at most so many ranks of frequency away from the feature that it stands for."""


def draw_decoys(
    frequency: Float[np.ndarray, " n"],
    pool: Int64[np.ndarray, " m"],
    wanted: Int64[np.ndarray, " q"],
    n_decoys: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "q n_decoys"]:
    """For each partner other ones of nearly its frequency, all different and never itself.

    They are at most 20 ranks of frequency away, a tenth of the pool where that is less, but never so near that there
    would be fewer than ``n_decoys``.

    Args:
        frequency: of the second feature of every matched pair.
        pool: indices into ``frequency`` that may become decoys.
        wanted: those that need decoys; all of them in the pool.

    Returns:
        Indices into ``frequency``; -1 where the pool holds too few.
    """
    order = pool[np.lexsort((rng.random(len(pool)), frequency[pool]))]
    rank = np.empty(len(frequency), np.int64)
    rank[order] = np.arange(len(order))
    reach = _reach(len(order), n_decoys)
    steps = np.concatenate([np.arange(-reach, 0), np.arange(1, reach + 1)])
    at = rank[wanted][:, None] + steps
    inside = (at >= 0) & (at < len(order))
    key = np.where(inside, rng.random(at.shape), np.inf)
    first = np.argsort(key, axis=1)[:, :n_decoys]
    found = np.full((len(wanted), n_decoys), -1, np.int64)
    if len(order):
        chosen = np.where(inside, order[at.clip(0, len(order) - 1)], -1)
        found[:, : first.shape[1]] = np.take_along_axis(chosen, first, axis=1)
    return found


def shuffle_partners(
    frequency: Float[np.ndarray, " n"], n_decoys: int, rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """For each matched pair another one whose partner it gets, so that no pair keeps its own.

    The pairs are cut into strata of as many ranks of frequency as decoys are away, and the partners of each go round
    in a random circle.

    Returns:
        Indices into ``frequency``; -1 for a pair without any other.
    """
    n = len(frequency)
    found = np.full(n, -1, np.int64)
    if n < 2:
        return found
    for rows in frequency_strata(frequency, max(1, n // (_reach(n, n_decoys) + 1)), rng):
        circle = rng.permutation(rows)
        found[circle] = np.roll(circle, -1)
    return found


def _reach(n: int, n_decoys: int) -> int:
    """How many ranks of n a decoy may be away."""
    return max(min(_RANKS, n // 10), n_decoys, 1)
