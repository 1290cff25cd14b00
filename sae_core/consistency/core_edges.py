"""The graph of mutual nearest neighbours, at all thresholds at once: part of *consistency*."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from sae_core.consistency.core_kernels import core_sizes
from sae_core.consistency.mutual_neighbours import MutualPairs, check_threshold


class Edges:
    """Mutual nearest neighbours of all pairs of runs, the strongest first."""

    def __init__(
        self,
        n_features: Sequence[int],
        found: Mapping[tuple[int, int], MutualPairs],
        levels: Float[np.ndarray, " levels"],
    ) -> None:
        first = np.concatenate([[0], np.cumsum(n_features)])
        left = np.concatenate([first[i] + pairs.left for (i, _), pairs in found.items()])
        right = np.concatenate([first[j] + pairs.right for (_, j), pairs in found.items()])
        score = np.concatenate([pairs.score for pairs in found.values()])
        order = np.argsort(-score, kind="stable")
        order = order[: np.searchsorted(-score[order], -levels[0], side="right")]
        self._left, self._right = left[order], right[order]
        self._n_edges = np.searchsorted(-score[order], -levels[::-1], side="right")
        self._run_of = np.repeat(np.arange(len(n_features)), n_features)

    def core_sizes(self, subset: Sequence[int]) -> Int64[np.ndarray, " levels"]:
        """Size of the core of some runs at each level."""
        selected = np.zeros(int(self._run_of[-1]) + 1, np.bool_)
        selected[list(subset)] = True
        sizes: np.ndarray = core_sizes(self._left, self._right, self._n_edges, self._run_of, selected)
        return sizes[::-1]


def ascending(taus: Sequence[float]) -> Float[np.ndarray, " levels"]:
    """Thresholds in order, each once.

    Raises:
        ValueError: if there is none, or one is no cosine above 0.
    """
    if len(taus) == 0:
        raise ValueError("a curve needs at least one threshold: got none")
    for tau in taus:
        check_threshold(tau)
    return np.unique(np.asarray(taus, np.float64))
