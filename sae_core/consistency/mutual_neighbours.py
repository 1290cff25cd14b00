"""Which features of two runs choose each other, and who is matched with whom: what the stable core is made of.

Part of *consistency*. Matchings of S runs come as a mapping from pairs of places (i, j) with i < j.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int64

from sae_core.consistency.runs import Run
from sae_core.matching import Matching
from sae_core.matching.score_sources import ScoreSource

Matchings = Mapping[tuple[int, int], Matching]
"""For every pair of places i < j among the runs, the matching of run i with run j."""

_BLOCK_ENTRIES = 1 << 23
"""Scores looked at at a time: 32 MB."""


@dataclass(frozen=True)
class MutualPairs:
    """Pairs of features of two runs that are each other's nearest neighbours."""

    left: Int64[np.ndarray, " pairs"]
    """Rows of the first dictionary, ascending."""
    right: Int64[np.ndarray, " pairs"]
    score: Float[np.ndarray, " pairs"]
    """The score that both have as their largest: the absolute cosine, or the cosine when signed."""


def mutual_pairs(matching: Matching) -> MutualPairs:
    """The pairs that choose each other, as a matching knows them; a feature is in one of them at most."""
    left = np.flatnonzero(matching.nearest_left >= 0)
    left = left[matching.nearest_right[matching.nearest_left[left]] == left]
    return MutualPairs(left, matching.nearest_left[left], matching.best_left[left])


def mutual_pairs_of(source: ScoreSource, least: float) -> MutualPairs:
    """The same from the scores themselves, those of at least ``least`` only: one product and no matching."""
    n_rows, n_columns = source.shape
    best, nearest = np.empty(n_rows, np.float32), np.empty(n_rows, np.int64)
    best_of_column = np.full(n_columns, -np.inf, np.float32)
    size = max(1, _BLOCK_ENTRIES // n_columns)
    for start in range(0, n_rows, size):
        scores = source.block(slice(start, min(n_rows, start + size)))
        chunk = slice(start, start + len(scores))
        nearest[chunk] = scores.argmax(axis=1)
        best[chunk] = scores[np.arange(len(scores)), nearest[chunk]]
        np.maximum(best_of_column, scores.max(axis=0), out=best_of_column)
    rows = np.flatnonzero((best >= least) & (best == best_of_column[nearest]))
    _, first = np.unique(nearest[rows], return_index=True)  # of equal rows the first is chosen
    rows = rows[np.sort(first)]
    return MutualPairs(rows, nearest[rows], best[rows].astype(np.float64))


def partners(matchings: Matchings, run: int, other: int, n: int) -> Int64[np.ndarray, " n"]:
    """For each of the ``n`` rows of a run its matched row in another run, -1 where it has none."""
    found = matchings[min(run, other), max(run, other)]
    rows, theirs = (found.left, found.right) if run < other else (found.right, found.left)
    out = np.full(n, -1)
    out[rows] = theirs
    return out


def matched_scores(matchings: Matchings, run: int, other: int, n: int) -> Float[np.ndarray, " n"]:
    """For each of the ``n`` rows of a run the score of its match in another run, 0 where it has none."""
    found = matchings[min(run, other), max(run, other)]
    out = np.zeros(n)
    out[found.left if run < other else found.right] = found.score
    return out


def has_direction(matchings: Matchings, n_runs: int) -> list[Bool[np.ndarray, " _"]]:
    """For each run which of its rows are not zero, as the matchings know it."""
    nearest = [matchings[run, run + 1].nearest_left for run in range(n_runs - 1)]
    return [rows >= 0 for rows in [*nearest, matchings[n_runs - 2, n_runs - 1].nearest_right]]


def of_subset(matchings: Matchings, members: Sequence[int]) -> dict[tuple[int, int], Matching]:
    """The matchings among some of the runs, given ascending, by their places among these."""
    return {(i, j): matchings[members[i], members[j]] for i, j in combinations(range(len(members)), 2)}


def check_matchings(runs: Sequence[Run], matchings: Matchings) -> None:
    """Refuse matchings that are not those of the runs.

    Raises:
        ValueError: for fewer than two runs, a pair without a matching, one of other sizes, or a mixture of signed and
            absolute ones.
    """
    if len(runs) < 2:
        raise ValueError(f"agreement is between runs: at least two are needed, got {len(runs)}; train another seed")
    pairs = list(combinations(range(len(runs)), 2))
    missing = [pair for pair in pairs if pair not in matchings]
    if missing:
        i, j = missing[0]
        raise ValueError(
            f"no matching of {runs[i].name} and {runs[j].name}: expected one for each of the {len(pairs)} pairs of "
            f"places (i, j) with i < j, {len(missing)} are missing; match every pair of runs"
        )
    for i, j in pairs:
        expected = (len(runs[i].W_dec), len(runs[j].W_dec))
        found = (len(matchings[i, j].best_left), len(matchings[i, j].best_right))
        if found != expected:
            raise ValueError(
                f"the matching of {runs[i].name} and {runs[j].name} is of {found[0]} and {found[1]} features, the "
                f"runs have {expected[0]} and {expected[1]}; pass the matchings of these runs"
            )
    if len({matchings[pair].signed for pair in pairs}) > 1:
        raise ValueError("some matchings are signed and some are not: match all pairs in the same way")


def check_threshold(tau: float) -> None:
    """Refuse a cosine that is no threshold.

    Raises:
        ValueError: if it is not in (0, 1].
    """
    if not 0 < tau <= 1:
        raise ValueError(f"a threshold is a cosine above 0 and at most 1: got {tau}")
