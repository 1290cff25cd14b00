"""Similarity between different halves of the text: what measures of explanations and of words have in common.

The same windows on both sides would make features alike for no reason of their own. So A's half 0 is compared with B's
half 1, and A's half 1 with B's half 0; the similarity is the mean of those that there are.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sae_core.feature_contexts.contexts import N_HALVES
from sae_core.progress import Progress
from sae_core.similarity.measures import FeaturePairs, Kind, Scores, missing

_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class Slots:
    """What one run has for each feature and half."""

    row: Int64[np.ndarray, "features 2"]
    """Where it lies, by feature; -1: nowhere."""
    reason: np.ndarray
    """(features, 2) text: why not; None where there is something."""
    elsewhere: str
    """Why features beyond these have nothing."""

    def of(self, features: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, "n 2"], np.ndarray]:
        """Rows and reasons of some features."""
        row = np.full((len(features), N_HALVES), -1, np.int64)
        reason = np.full((len(features), N_HALVES), self.elsewhere, object)
        inside = features < len(self.row)
        row[inside], reason[inside] = self.row[features[inside]], self.reason[features[inside]]
        return row, reason


def missing_reason(reason_a: np.ndarray, reason_b: np.ndarray) -> np.ndarray:
    """Why neither half of A meets the other half of B; None where one does. (n, 2) reasons of either side."""
    lacking_a, lacking_b = missing(reason_a), missing(reason_b)
    reason = np.where(lacking_a[:, 0], reason_a[:, 0], reason_b[:, 1])
    reason[~(lacking_a[:, 1] | lacking_b[:, 0])] = None
    return reason


class AcrossHalves(ABC):
    """A measure that compares what one half says of A's feature with what the other half says of B's.

    Args:
        slots: of every run.
    """

    name: str
    kind: Kind
    explainer: str | None
    costly = False

    def __init__(self, slots: Mapping[str, Slots]) -> None:
        self.slots = slots

    @abstractmethod
    def compare(
        self,
        left: tuple[str, int],
        rows: Int64[np.ndarray, " n"],
        right: tuple[str, int],
        others: Int64[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " n"]:
        """Similarity of the rows of one run and half with those of another run or half."""

    @final
    def score(self, pairs: Sequence[FeaturePairs], progress: Progress) -> list[Scores]:
        """The similarity of all pairs of features."""
        found = []
        for number, pair in enumerate(pairs, 1):
            found.append(self._score(pair))
            progress(number, len(pairs), f"{self.name}: {number} of {len(pairs)} pairs of runs")
        return found

    @final
    def known(self, run: str, features: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which features have something in either half."""
        return np.asarray((self.slots[run].of(features)[0] >= 0).any(axis=1))

    @final
    def ceiling(self, used: Mapping[str, Int64[np.ndarray, " _"]]) -> float | None:
        """Mean similarity of the two halves of a feature, over the features that have both."""
        found = []
        for run, features in used.items():
            row, _ = self.slots[run].of(features)
            row = row[(row >= 0).all(axis=1)]
            found.append(self._in_parts((run, 0), row[:, 0], (run, 1), row[:, 1]))
        values = np.concatenate(found) if found else np.zeros(0)
        return float(values.mean()) if len(values) else None

    def _score(self, pair: FeaturePairs) -> Scores:
        (a, reason_a), (b, reason_b) = self.slots[pair.run_a].of(pair.left), self.slots[pair.run_b].of(pair.right)
        total, count = np.zeros(len(a)), np.zeros(len(a))
        for half in range(N_HALVES):
            there = np.flatnonzero((a[:, half] >= 0) & (b[:, 1 - half] >= 0))
            total[there] += self._in_parts(
                (pair.run_a, half), a[there, half], (pair.run_b, 1 - half), b[there, 1 - half]
            )
            count[there] += 1
        value = np.divide(total, count, out=np.full(len(a), np.nan), where=count > 0)
        return Scores(value, missing_reason(reason_a, reason_b))

    def _in_parts(
        self, left: tuple[str, int], rows: np.ndarray, right: tuple[str, int], others: np.ndarray
    ) -> Float64[np.ndarray, " n"]:
        out = np.empty(len(rows))
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            out[part] = self.compare(left, rows[part], right, others[part])
        return out
