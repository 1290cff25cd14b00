"""How the stable core shrinks with the threshold and with more seeds, and what chance gives: part of *consistency*."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int64

from sae_core.config import Result
from sae_core.consistency.core_chance import chance_sizes
from sae_core.consistency.core_edges import Edges, ascending
from sae_core.consistency.mutual_neighbours import Matchings, check_matchings, has_direction, mutual_pairs
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import StableCore
from sae_core.progress import Progress, silent

CORE_CURVE_SCHEMA = pa.schema(
    [
        pa.field("tau", pa.float64(), nullable=False),
        pa.field("n_seeds", pa.int64(), nullable=False),
        pa.field("size", pa.float64(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("chance", pa.float64()),
        pa.field("n_subsets", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class CoreCurve:
    """Size of the stable core for every threshold and number of seeds from two on; one entry of each array a point."""

    tau: Float[np.ndarray, " points"]
    n_seeds: Int64[np.ndarray, " points"]
    size: Float[np.ndarray, " points"]
    """Features in the core, mean over subsets of so many runs."""
    share: Float[np.ndarray, " points"]
    """The same relative to the features with a direction of the smallest run of each subset, in [0, 1]."""
    chance: Float[np.ndarray, " points"]
    """Size of the core of independent dictionaries of the same geometry; nan when it was not asked for."""
    n_subsets: Int64[np.ndarray, " points"]
    """Subsets the mean is over: all there are, or a sample."""

    def chance_at(self, tau: float, n_seeds: int) -> float | None:
        """The chance level of one point; None when the curve does not have it."""
        found = self.chance[(self.tau == tau) & (self.n_seeds == n_seeds)]
        return float(found[0]) if len(found) and np.isfinite(found[0]) else None

    def table(self) -> pa.Table:
        """One row a point, by threshold and number of seeds."""
        columns = {
            "tau": self.tau,
            "n_seeds": self.n_seeds,
            "size": self.size,
            "share": self.share,
            "chance": pa.array(self.chance, pa.float64(), mask=np.isnan(self.chance)),
            "n_subsets": self.n_subsets,
        }
        return pa.table(columns, schema=CORE_CURVE_SCHEMA)


class CoreLevel(Result):
    """The stable core of all runs at one threshold."""

    tau: float
    """Least absolute cosine of mutual nearest neighbours that count as the same feature."""
    n_core: int
    """Features that every run has, each run exactly once."""
    n_complete: int
    """Those of them of which every two members choose each other."""
    n_split: int
    """Components with several features of one run."""
    n_partial: int
    """Components of two or more runs, but not all, each run once."""
    n_single: int
    """Features that no other run has."""
    share: float
    """``n_core`` relative to the features with a direction of the smallest run."""
    chance: float | None
    """Size of the core that independent dictionaries of the same geometry have; None when it was not computed."""


class CoreSummary(Result):
    """The stable core of all runs: features that are each other's nearest neighbours across runs."""

    n_runs: int
    n_features: int
    """Features with a direction of the smallest run: no core is larger."""
    levels: list[CoreLevel]
    """One a threshold."""


def core_summary(cores: Sequence[StableCore], curve: CoreCurve | None = None) -> CoreSummary:
    """The cores of the same runs at several thresholds as numbers; chance levels come from the curve.

    Raises:
        ValueError: if there is no core.
    """
    if not cores:
        raise ValueError("a summary needs the core at one threshold at least: got none")
    n_runs = len(cores[0].kinds)
    levels = [
        CoreLevel(
            tau=core.tau,
            n_core=core.n_core,
            n_complete=core.n_complete,
            n_split=core.n_split,
            n_partial=core.n_partial,
            n_single=core.n_single,
            share=core.share,
            chance=None if curve is None else curve.chance_at(core.tau, n_runs),
        )
        for core in cores
    ]
    return CoreSummary(n_runs=n_runs, n_features=cores[0].n_features, levels=levels)


def core_curve(
    runs: Sequence[Run],
    matchings: Matchings,
    taus: Sequence[float],
    n_subsets: int = 64,
    n_chance_draws: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> CoreCurve:
    """Size of the stable core against the threshold and against the number of seeds.

    Args:
        runs: at least two.
        matchings: of every pair of places i < j.
        taus: thresholds, each in (0, 1].
        n_subsets: subsets of each number of runs that are looked at: all when there are no more, else a sample.
        n_chance_draws: see :func:`chance_sizes`; 0 leaves chance out.
        seed: of the sample and of the chance level.
        progress: called before every product of the chance level.

    Raises:
        ValueError: if the matchings are not those of the runs, or there is no threshold, or one is no cosine.
    """
    check_matchings(runs, matchings)
    levels = ascending(taus)
    n_runs = len(runs)
    n_features = np.array([int(rows.sum()) for rows in has_direction(matchings, n_runs)])
    found = {pair: mutual_pairs(matchings[pair]) for pair in combinations(range(n_runs), 2)}
    edges = Edges([len(run.W_dec) for run in runs], found, levels)
    n_seeds = np.arange(2, n_runs + 1)
    size, share, counts = np.zeros((len(n_seeds), len(levels))), np.zeros((len(n_seeds), len(levels))), []
    for place, k in enumerate(n_seeds):
        subsets = _subsets(n_runs, int(k), n_subsets, seed)
        sizes = np.array([edges.core_sizes(subset) for subset in subsets])
        size[place] = sizes.mean(axis=0)
        share[place] = (sizes / n_features[np.array(subsets)].min(axis=1)[:, None]).mean(axis=0)
        counts.append(len(subsets))
    signed = matchings[0, 1].signed
    chance = chance_sizes(runs, levels.tolist(), signed, n_chance_draws, seed, progress)
    return CoreCurve(
        tau=np.repeat(levels, len(n_seeds)),
        n_seeds=np.tile(n_seeds, len(levels)),
        size=size.T.ravel(),
        share=share.T.ravel(),
        chance=chance.T.ravel(),
        n_subsets=np.tile(counts, len(levels)),
    )


def _subsets(n_runs: int, k: int, limit: int, seed: int) -> list[tuple[int, ...]]:
    """All subsets of k runs, or a sample of different ones."""
    if comb(n_runs, k) <= limit:
        return list(combinations(range(n_runs), k))
    generator = np.random.default_rng([seed, k])
    found: set[tuple[int, ...]] = set()
    while len(found) < limit:
        found.add(tuple(sorted(generator.choice(n_runs, k, replace=False).tolist())))
    return sorted(found)
