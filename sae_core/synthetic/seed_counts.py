"""What fewer seeds would have said: PW-MCC and the consensus of some of the runs. Part of the *synthetic* stage."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float

from sae_core.consistency import Run, consensus, jackknife
from sae_core.consistency.mutual_neighbours import Matchings, check_matchings, of_subset
from sae_core.consistency.statistics import pair_mean
from sae_core.matching import Matching
from sae_core.synthetic.results import SeedCount, Summaries
from sae_core.synthetic.run_summaries import pair_values, what_recovers


def over_seed_counts(
    runs: Sequence[Run],
    matchings: Matchings,
    truth: Float[np.ndarray, "d_gt d_in"] | None,
    of_truth: Sequence[Matching],
    counts: Sequence[int],
    tau: float = 0.9,
    n_draws: int = 20,
    seed: int = 0,
) -> list[SeedCount]:
    """PW-MCC, its interval, and what is recovered, from so many of the runs; several draws of each number.

    A draw is a set of runs: all sets when there are no more than ``n_draws``, else so many different random ones. Sets
    share runs, so the standard deviations over draws say how much the choice of seeds matters, not how sure the means
    are; with all runs there is one set.

    Args:
        runs: at least two.
        matchings: of every pair of places i < j.
        truth: true features, one a row; None is refused.
        of_truth: the matching of each run (left) with the truth (right).
        counts: numbers of runs, from 2 to all.
        tau: cosine from which a true feature counts as recovered.
        n_draws: sets of runs for each number.
        seed: of the random sets. Those of one number do not depend on the other numbers.

    Raises:
        ValueError: if a number of runs is impossible, there is no draw, or as
            :func:`sae_core.consistency.consensus` and :func:`sae_core.synthetic.run_summaries.what_recovers` do.
    """
    check_matchings(runs, matchings)
    if n_draws < 1:
        raise ValueError(f"a number of seeds needs at least one draw: got n_draws={n_draws}")
    for count in counts:
        if not 2 <= count <= len(runs):
            raise ValueError(f"expected numbers of runs from 2 to the {len(runs)} there are: got {count}; change it")
    found = []
    for count in counts:
        draws = [
            _draw(runs, matchings, truth, of_truth, members, tau)
            for members in _subsets(len(runs), count, n_draws, seed)
        ]
        found.append(_over_draws(count, draws))
    return found


def _draw(
    runs: Sequence[Run],
    matchings: Matchings,
    truth: Float[np.ndarray, "d_gt d_in"] | None,
    of_truth: Sequence[Matching],
    members: tuple[int, ...],
    tau: float,
) -> tuple[float, float | None, Summaries]:
    """PW-MCC of some of the runs, half its interval, and what recovers."""
    chosen, among = [runs[i] for i in members], of_subset(matchings, members)
    mccs = pair_values(among, len(members))
    interval = jackknife(mccs)
    half_width = None if interval is None else (interval.high - interval.low) / 2
    summaries = what_recovers(chosen, among, truth, [of_truth[i] for i in members], consensus(chosen, among), tau)
    return pair_mean(mccs), half_width, summaries


def _over_draws(count: int, draws: Sequence[tuple[float, float | None, Summaries]]) -> SeedCount:
    pw_mccs, half_widths, summaries = zip(*draws, strict=True)
    together = [one.consensus for one in summaries]
    precisions = [one.consensus_precision for one in summaries if one.consensus_precision is not None]
    return SeedCount(
        n_runs=count,
        n_draws=len(draws),
        pw_mcc=float(np.mean(pw_mccs)),
        pw_mcc_sd=_spread(pw_mccs),
        ci_half_width=None if count == 2 else float(np.mean(half_widths)),
        mean_run=float(np.mean([one.mean_run for one in summaries])),
        medoid=float(np.mean([one.medoid for one in summaries])),
        consensus=float(np.mean(together)),
        consensus_sd=_spread(together),
        consensus_precision=float(np.mean(precisions)) if precisions else None,
    )


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _subsets(n_runs: int, count: int, n_draws: int, seed: int) -> list[tuple[int, ...]]:
    """Ascending places of runs: all sets of so many, or a sample of different ones."""
    if comb(n_runs, count) <= n_draws:
        return list(combinations(range(n_runs), count))
    rng, chosen = np.random.default_rng([seed, count]), set[tuple[int, ...]]()
    while len(chosen) < n_draws:
        chosen.add(tuple(sorted(rng.choice(n_runs, count, replace=False).tolist())))
    return sorted(chosen)
