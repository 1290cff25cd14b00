"""The stable core: features that every run found, each run exactly once. Part of *consistency*.

A node is a feature of a run; an edge joins features of two runs that are each other's nearest neighbours with a score
of at least tau. A component of this graph with exactly one node in each run is one feature of the core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import combinations, permutations

import numpy as np
from jaxtyping import Bool, Int8, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sae_core.consistency.mutual_neighbours import (
    Matchings,
    check_matchings,
    check_threshold,
    has_direction,
    mutual_pairs,
    partners,
)
from sae_core.consistency.runs import Run


class Kind(IntEnum):
    """What the component of a feature is."""

    NONE = -1
    """A row of zeros: no direction."""
    SINGLE = 0
    """The feature is alone: no run has a counterpart."""
    PARTIAL = 1
    """Some of the runs have the feature, each once."""
    CORE = 2
    """Every run has the feature, each once."""
    SPLIT = 3
    """A run has more than one node in the component: what is one feature here is several there."""


@dataclass(frozen=True)
class StableCore:
    """Components at one threshold."""

    tau: float
    members: Int64[np.ndarray, "n_core runs"]
    """For each feature of the core its row in every run, ascending in the first run."""
    complete: Bool[np.ndarray, " n_core"]
    """Whether all pairs of its members choose each other, not only enough of them to hang together. Complete ones
    stay complete when tau falls or a run is left out; others may become split, partial or nothing."""
    kinds: tuple[Int8[np.ndarray, " _"], ...]
    """For each run the :class:`Kind` of each of its features."""
    components: tuple[Int64[np.ndarray, " _"], ...]
    """For each run the number of the component of each of its features."""
    n_split: int
    """Components of that kind."""
    n_partial: int
    n_single: int
    n_features: int
    """Features with a direction of the smallest run: no core is larger."""

    @property
    def n_core(self) -> int:
        """Size of the core."""
        return len(self.members)

    @property
    def n_complete(self) -> int:
        """Features of the core of which all pairs of members choose each other."""
        return int(self.complete.sum())

    @property
    def share(self) -> float:
        """Size of the core relative to the features of the smallest run, in [0, 1]."""
        return self.n_core / self.n_features

    def contains(self, run: int) -> Bool[np.ndarray, " n"]:
        """Which features of a run, by its place, are in the core."""
        return np.asarray(self.kinds[run] == Kind.CORE)


def stable_core(runs: Sequence[Run], matchings: Matchings, tau: float) -> StableCore:
    """Features that all runs agree on at a threshold.

    Args:
        runs: at least two; they may have different numbers of features.
        matchings: of every pair of places i < j; signed matchings make signed edges.
        tau: least score of an edge, in (0, 1].

    Raises:
        ValueError: if the matchings are not those of the runs, or the threshold is no cosine.
    """
    check_matchings(runs, matchings)
    check_threshold(tau)
    n_runs = len(runs)
    sizes = np.array([len(run.W_dec) for run in runs])
    first = np.concatenate([[0], np.cumsum(sizes)])
    run_of = np.repeat(np.arange(n_runs), sizes)
    directed = np.concatenate(has_direction(matchings, n_runs))
    left, right = _edges(matchings, n_runs, first, tau)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(first[-1], first[-1]))
    n_components, component = connected_components(graph, directed=False)
    kind, n_edges = (
        _kinds(component, run_of, n_components, n_runs),
        np.bincount(component[left], minlength=n_components),
    )
    core = np.flatnonzero(kind[component] == Kind.CORE)
    nodes = core[np.lexsort((run_of[core], component[core]))].reshape(-1, n_runs)
    nodes = nodes[np.argsort(nodes[:, 0])]
    of_node = np.where(directed, kind[component], Kind.NONE).astype(np.int8)
    return StableCore(
        tau=float(tau),
        members=nodes - first[:-1],
        complete=n_edges[component[nodes[:, 0]]] == n_runs * (n_runs - 1) // 2,
        kinds=tuple(np.split(of_node, first[1:-1])),
        components=tuple(np.split(component.astype(np.int64), first[1:-1])),
        n_split=int((kind == Kind.SPLIT).sum()),
        n_partial=int((kind == Kind.PARTIAL).sum()),
        n_single=int((kind == Kind.SINGLE).sum() - (~directed).sum()),
        n_features=int(np.bincount(run_of, directed).min()),
    )


def cycle_consistency(matchings: Matchings, n_runs: int) -> float | None:
    """How often two matchings in a row lead where the direct one leads, in [0, 1].

    ``P[sigma_jk(sigma_ij(x)) = sigma_ik(x)]`` over all ordered triples of different runs i, j, k and all features x of
    run i for which all three are defined (with equal widths, all features). By chance it is about 1 / n.

    Returns:
        None for two runs, where there is no way round, or when all three are never defined.
    """
    n_closed, n_defined = 0, 0
    maps = {pair: partners(matchings, *pair, _width(matchings, pair[0])) for pair in permutations(range(n_runs), 2)}
    for i, j, k in permutations(range(n_runs), 3):
        over = np.flatnonzero((maps[i, j] >= 0) & (maps[i, k] >= 0))
        indirect = maps[j, k][maps[i, j][over]]
        n_defined += int((indirect >= 0).sum())
        n_closed += int((indirect == maps[i, k][over]).sum())
    return n_closed / n_defined if n_defined else None


def _width(matchings: Matchings, run: int) -> int:
    """Number of features of a run."""
    return len(matchings[run, run + 1].best_left if (run, run + 1) in matchings else matchings[run - 1, run].best_right)


def _edges(
    matchings: Matchings, n_runs: int, first: np.ndarray, tau: float
) -> tuple[Int64[np.ndarray, " edges"], Int64[np.ndarray, " edges"]]:
    left, right = [], []
    for i, j in combinations(range(n_runs), 2):
        pairs = mutual_pairs(matchings[i, j])
        strong = pairs.score >= tau
        left.append(first[i] + pairs.left[strong])
        right.append(first[j] + pairs.right[strong])
    return np.concatenate(left), np.concatenate(right)


def _kinds(component: np.ndarray, run_of: np.ndarray, n_components: int, n_runs: int) -> Int8[np.ndarray, " c"]:
    """The kind of each component; a row of zeros is alone and counts as single here."""
    size = np.bincount(component, minlength=n_components)
    seen = np.unique(component.astype(np.int64) * n_runs + run_of) // n_runs
    n_seen = np.bincount(seen, minlength=n_components)
    kinds = np.where(size == 1, Kind.SINGLE, np.where(n_seen == n_runs, Kind.CORE, Kind.PARTIAL))
    return np.where(size > n_seen, Kind.SPLIT, kinds).astype(np.int8)
