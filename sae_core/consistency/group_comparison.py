"""Whether a consensus is worth more than a run: consensuses of groups that share no run, compared with each other.

Part of *consistency*. What two groups find independently cannot be an accident of their seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb

import numpy as np
from jaxtyping import Int64

from sae_core.config import Result
from sae_core.consistency.consensus_dictionary import Consensus, consensus
from sae_core.consistency.mutual_neighbours import Matchings, check_matchings, matched_scores, of_subset
from sae_core.consistency.runs import Run
from sae_core.matching import match
from sae_core.progress import Progress, silent

FEWEST_RUNS = 4
"""Two groups of two."""
_MANY_FEATURES = 4096
"""From so many features on a matching takes so long that few splits must do."""
_ALL_PAIRS = 9
"""Up to so many pairs of runs of different groups all are compared; of more, each run with one of the other group."""

Split = tuple[tuple[int, ...], tuple[int, ...]]


class DisjointGroups(Result):
    """MCC across two groups of runs that share none, for several splits of the runs.

    Splits share runs, so the standard deviations over them say how much the split matters, not how sure the mean is.
    """

    group_sizes: list[int]
    """Runs in either group."""
    n_splits: int
    """Splits that were compared."""
    n_splits_empty: int
    """Further splits in which a group agreed on nothing, so that there was no consensus to compare."""
    mean_features: float
    """Features of the smaller consensus, mean over splits."""
    consensus_mcc: float
    """MCC of the two consensuses, mean over splits."""
    single_mcc: float
    """MCC of single runs, one of either group, all features; mean over pairs and splits. With more than nine pairs in
    a split, each run is compared with one of the other group."""
    single_restricted_mcc: float
    """The fair comparison: the same pairs of runs, each restricted to as many features as its group's consensus has,
    those that its own group found most stable (largest mean matched score within the group)."""
    consensus_mcc_sd: float | None
    """Standard deviation over splits; None for one split."""
    single_mcc_sd: float | None
    """As above."""
    single_restricted_mcc_sd: float | None
    """As above."""
    n_splits_better: int
    """Splits in which the consensuses agreed better than the restricted single runs."""


@dataclass(frozen=True)
class _Values:
    consensus: float
    single: float
    restricted: float
    n_features: int


def disjoint_groups(
    runs: Sequence[Run],
    matchings: Matchings,
    tau: float = 0.7,
    min_support: int | None = None,
    max_rounds: int = 10,
    n_splits: int | None = None,
    seed: int = 0,
    time_budget_s: float | None = None,
    progress: Progress = silent,
) -> DisjointGroups | None:
    """Compare the consensuses of two disjoint halves of the runs, over splits of the runs in two.

    Args:
        runs: any number from two on; of an odd number, one group has one more.
        matchings: of every pair of places i < j.
        tau, min_support, max_rounds: see :func:`sae_core.consistency.consensus`; None takes more than half of a group.
        n_splits: splits that are compared: all when there are no more, else a sample. None takes 10, and 3 from 4,096
            features on: each costs the matchings of two consensuses and about one a run.
        seed: of the sample.
        time_budget_s: seconds for one matching; what took longer counts with the lower bound that it found.
        progress: called before every split.

    Returns:
        None with fewer than four runs, or when no split has two consensuses to compare: :func:`no_groups_reason`.

    Raises:
        ValueError: as :func:`sae_core.consistency.consensus` does, and if there is no split.
    """
    check_matchings(runs, matchings)
    if n_splits is not None and n_splits < 1:
        raise ValueError(f"a comparison of groups needs at least one split: got n_splits={n_splits}")
    if len(runs) < FEWEST_RUNS:
        return None
    if n_splits is None:
        n_splits = 10 if max(len(run.W_dec) for run in runs) < _MANY_FEATURES else 3
    splits, found = _splits(len(runs), n_splits, seed), []
    settings = (tau, min_support, max_rounds, time_budget_s)
    for number, split in enumerate(splits):
        progress(number, len(splits), f"consensuses of disjoint groups, split {number + 1} of {len(splits)}")
        groups = [consensus([runs[i] for i in group], of_subset(matchings, group), *settings) for group in split]
        if all(group.n_features for group in groups):
            found.append(_compare(runs, matchings, split, groups, time_budget_s))
    return _result(splits, found) if found else None


def no_groups_reason(n_runs: int) -> str:
    """Why :func:`disjoint_groups` gives None for so many runs."""
    if n_runs < FEWEST_RUNS:
        return f"two disjoint groups of at least two runs each need four runs: there are {n_runs}"
    return "in every split, a group of runs agrees on no feature"


def _compare(
    runs: Sequence[Run],
    matchings: Matchings,
    split: Split,
    groups: Sequence[Consensus],
    time_budget_s: float | None,
) -> _Values:
    signed, names = matchings[0, 1].signed, ("consensus of one group", "consensus of the other group")
    agreement = match(groups[0].W_dec, groups[1].W_dec, signed, names=names, time_budget_s=time_budget_s)
    stable = {
        run: most_stable(matchings, run, group, found.n_features, len(runs[run].W_dec))
        for group, found in zip(split, groups, strict=True)
        for run in group
    }
    single, restricted = [], []
    for a, b in _pairs(split):
        single.append(matchings[min(a, b), max(a, b)].mcc)
        W_a, W_b = runs[a].W_dec[stable[a]], runs[b].W_dec[stable[b]]
        names = (runs[a].name, runs[b].name)
        restricted.append(match(W_a, W_b, signed, names=names, time_budget_s=time_budget_s).mcc)
    return _Values(agreement.mcc, float(np.mean(single)), float(np.mean(restricted)), len(agreement.left))


def most_stable(matchings: Matchings, run: int, group: Sequence[int], count: int, n: int) -> Int64[np.ndarray, " m"]:
    """The features of a run with the largest mean matched score within its group: ``count`` of its ``n`` rows."""
    score = np.mean([matched_scores(matchings, run, other, n) for other in group if other != run], axis=0)
    return np.sort(np.argsort(-score, kind="stable")[:count])


def _pairs(split: Split) -> list[tuple[int, int]]:
    """Pairs of runs of different groups: all, or each run of the smaller group with another one."""
    pairs = list(product(*split))
    return pairs if len(pairs) <= _ALL_PAIRS else list(zip(*split, strict=False))


def _result(splits: Sequence[Split], found: Sequence[_Values]) -> DisjointGroups:
    values = np.array([[value.consensus, value.single, value.restricted] for value in found])
    spread = values.std(axis=0, ddof=1).tolist() if len(found) > 1 else [None] * 3
    return DisjointGroups(
        group_sizes=[len(group) for group in splits[0]],
        n_splits=len(found),
        n_splits_empty=len(splits) - len(found),
        mean_features=float(np.mean([value.n_features for value in found])),
        consensus_mcc=float(values[:, 0].mean()),
        single_mcc=float(values[:, 1].mean()),
        single_restricted_mcc=float(values[:, 2].mean()),
        consensus_mcc_sd=spread[0],
        single_mcc_sd=spread[1],
        single_restricted_mcc_sd=spread[2],
        n_splits_better=int((values[:, 0] > values[:, 2]).sum()),
    )


def _splits(n_runs: int, limit: int, seed: int) -> list[Split]:
    """All ways to split the runs in halves, or a sample of different ones."""
    half, everyone = n_runs // 2, range(n_runs)
    n_all = comb(n_runs, half) // (2 if n_runs == 2 * half else 1)
    if n_all <= limit:
        halves = [set(group) for group in combinations(everyone, half)][:n_all]
    else:
        generator, chosen = np.random.default_rng(seed), set[frozenset[int]]()
        while len(chosen) < limit:
            group = frozenset(generator.choice(n_runs, half, replace=False).tolist())
            if n_runs == 2 * half and 0 not in group:
                group = frozenset(everyone) - group
            chosen.add(group)
        halves = [set(group) for group in sorted(chosen, key=sorted)]
    return [(tuple(sorted(group)), tuple(i for i in everyone if i not in group)) for group in halves]
