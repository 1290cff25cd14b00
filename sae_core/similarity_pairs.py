"""The matched features of two runs, the similarity of their explanations, and that of decoys of equal frequency."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from sae_core.feature_contexts import N_HALVES

_DECOY_RANKS = 20
"""A decoy is at most so many ranks of frequency away from the feature it stands for."""
_DEAD = "not alive in both runs"
_NOT_DRAWN = "not in the sample of explained features"


@dataclass(frozen=True)
class Explained:
    """Where the vectors of one run's explanations are."""

    row: Int[np.ndarray, "n 2"]
    """Row of the vectors by feature id and half; -1: no explanation."""
    reason: list[str]
    """Why a feature without any explanation has none."""

    def of(self, features: np.ndarray) -> np.ndarray:
        """(m, 2) rows; features beyond the table have none."""
        found = np.full((len(features), N_HALVES), -1, dtype=np.int64)
        known = features < len(self.row)
        found[known] = self.row[features[known]]
        return found

    def why(self, feature: int) -> str:
        """Why a feature lacks an explanation."""
        return self.reason[feature] if feature < len(self.reason) else _NOT_DRAWN


@dataclass(frozen=True)
class MatchedPairs:
    """Matched features of two runs, with what was found for them (nan: missing)."""

    run_a: str
    run_b: str
    left: np.ndarray
    right: np.ndarray
    cosine: np.ndarray
    frequency: np.ndarray
    similarity: np.ndarray
    decoy: np.ndarray
    """(m, n_decoys)"""
    reason: list[str | None]

    @property
    def used(self) -> np.ndarray:
        """True where there is a similarity."""
        known: np.ndarray = ~np.isnan(self.similarity)
        return known

    @property
    def mean_decoy(self) -> np.ndarray:
        """Mean over a pair's decoys; nan without any."""
        known = ~np.isnan(self.decoy)
        count = known.sum(axis=1)
        return np.where(count > 0, np.where(known, self.decoy, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def index_explanations(table: pa.Table, index: Mapping[str, int]) -> Explained:
    """Look up the explanations of one run.

    Args:
        table: as ``explain_run`` writes it.
        index: row of the vectors of each text.
    """
    features, half = table["feature"].to_numpy(), table["half"].to_numpy()
    n = int(features.max(initial=-1)) + 1
    row = np.full((n, N_HALVES), -1, dtype=np.int64)
    texts = table["explanation"].to_pylist()
    row[features, half] = [-1 if text is None else index[text] for text in texts]
    reason = [_NOT_DRAWN] * n
    for feature, why in zip(features.tolist(), table["missing_reason"].to_pylist(), strict=True):
        if why is not None:
            reason[feature] = why
    return Explained(row, reason)


def compare(
    run_a: str,
    run_b: str,
    matches: pa.Table,
    explained: Mapping[str, Explained],
    vectors: Float[np.ndarray, "texts dim"],
    n_decoys: int,
    rng: np.random.Generator,
) -> MatchedPairs:
    """Similarity of every matched pair of two runs and of its decoys.

    Args:
        matches: the rows of the matches that belong to these two runs.
        vectors: unit vectors of the explanations.
    """
    column = {name: matches[name].to_numpy() for name in matches.column_names}
    left, right = column["feature_a"], column["feature_b"]
    a, b = explained[run_a].of(left), explained[run_b].of(right)
    alive = column["alive_a"].astype(bool) & column["alive_b"].astype(bool)
    similarity = np.where(alive, across_halves(a, b, vectors), np.nan)
    used = np.flatnonzero(~np.isnan(similarity))
    decoy = np.full((len(left), n_decoys), np.nan)
    partners = draw_decoys(column["frequency_b"][used], n_decoys, rng)
    for k in range(partners.shape[1]):
        decoy[used, k] = across_halves(a[used], b[used][partners[:, k]], vectors)
    reason: list[str | None] = [None] * len(left)
    for i in np.flatnonzero(np.isnan(similarity)).tolist():
        reason[i] = _why(explained[run_a], explained[run_b], int(left[i]), int(right[i])) if alive[i] else _DEAD
    frequency = np.minimum(column["frequency_a"], column["frequency_b"])
    return MatchedPairs(run_a, run_b, left, right, column["cosine"], frequency, similarity, decoy, reason)


def _why(a: Explained, b: Explained, left: int, right: int) -> str:
    """Why an alive pair has no similarity. Where A has an explanation, B lacks the one of the other half."""
    return a.why(left) if (a.of(np.array([left])) < 0).all() else b.why(right)


def across_halves(
    a: Int[np.ndarray, "n 2"], b: Int[np.ndarray, "n 2"], vectors: Float[np.ndarray, "texts dim"]
) -> Float[np.ndarray, " n"]:
    """Cosine of A's half 0 with B's half 1 and of A's half 1 with B's half 0, averaged over what exists; nan: neither.

    Args:
        a: row in ``vectors`` of each half's explanation; -1 where there is none.
    """
    total, count = np.zeros(len(a)), np.zeros(len(a))
    for half in range(N_HALVES):
        known = np.flatnonzero((a[:, half] >= 0) & (b[:, 1 - half] >= 0))
        total[known] += _cosines(vectors, a[known, half], b[known, 1 - half])
        count[known] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_decoys(
    frequency: Float[np.ndarray, " n"], n_decoys: int, rng: np.random.Generator
) -> Int[np.ndarray, "n n_decoys"]:
    """For each feature others of nearly its frequency: at most ``_DECOY_RANKS`` ranks away, never itself.

    Returns:
        Indices into ``frequency``; no column where there is no other feature.
    """
    n = len(frequency)
    if n < 2:
        return np.zeros((n, 0), dtype=np.int64)
    order = np.argsort(frequency, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    low, high = np.maximum(rank - _DECOY_RANKS, 0), np.minimum(rank + _DECOY_RANKS, n - 1)
    drawn = rng.integers(low[:, None], high[:, None], size=(n, n_decoys))  # one fewer than there are: itself left out
    return order[drawn + (drawn >= rank[:, None])]


def self_similarity(row: Int[np.ndarray, "n 2"], vectors: np.ndarray) -> Float[np.ndarray, " m"]:
    """Similarity of the two explanations of each feature that has both."""
    both = row[(row >= 0).all(axis=1)]
    return _cosines(vectors, both[:, 0], both[:, 1])


def _cosines(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> Float[np.ndarray, " n"]:
    """Cosine of each pair of rows of unit vectors."""
    found: np.ndarray = (vectors[left].astype(np.float64) * vectors[right]).sum(axis=1)
    return found
