"""Which frequencies PW-MCC comes from: matched pairs in bins of frequency, a part of *consistency*."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sae_core.consistency.results import FrequencyBin
from sae_core.consistency.runs import Run
from sae_core.matching import Matching


@dataclass(frozen=True)
class BinnedMatches:
    """Matched pairs of features of all pairs of runs, with what their bins are made of."""

    frequency: Float64[np.ndarray, " matches"]
    """Of every match the smaller of the two features' frequencies."""
    cosine: Float64[np.ndarray, " matches"]
    """Absolute cosine."""
    weight: Float64[np.ndarray, " matches"]
    """What one unit of cosine adds to PW-MCC: one over matches of the pair of runs and pairs of runs."""


def collect_matches(runs: Sequence[Run], matchings: Mapping[tuple[int, int], Matching]) -> BinnedMatches | None:
    """The matches of all pairs of runs; None when a run has no frequencies.

    Args:
        runs: at least two.
        matchings: of pairs of places among the runs.
    """
    frequency, cosine, weight = [], [], []
    for (a, b), found in matchings.items():
        f_a, f_b = runs[a].frequency, runs[b].frequency
        if f_a is None or f_b is None:
            return None
        frequency.append(np.minimum(f_a[found.left], f_b[found.right]).astype(np.float64))
        cosine.append(np.abs(found.cosine))
        weight.append(np.full(len(found.left), 1 / (len(found.left) * len(matchings))))
    return BinnedMatches(np.concatenate(frequency), np.concatenate(cosine), np.concatenate(weight))


def log_bins(matches: BinnedMatches, n_bins: int) -> list[FrequencyBin]:
    """Log-spaced bins between the smallest and the largest frequency, as in Song et al. 2025.

    A bin's contribution is the mean over pairs of runs of (sum of its absolute cosines) / (matched pairs), so all
    contributions add up to PW-MCC. Pairs with a feature that never fired have a bin of their own, the first, if there
    are any. A single frequency makes a single bin.
    """
    alive = matches.frequency[matches.frequency > 0]
    if len(alive) == 0:
        return _bins(matches, np.zeros(0))
    low, high = float(alive.min()), float(alive.max())
    return _bins(matches, np.geomspace(low, high, n_bins + 1) if high > low else np.array([low, high]))


def equal_count_bins(matches: BinnedMatches, n_bins: int) -> list[FrequencyBin]:
    """Bins that hold equally many matches that are alive on both sides; the rest is as in :func:`log_bins`.

    Matches with the same frequency stay together, so counts differ where frequencies repeat, and there are fewer bins
    where they repeat much.
    """
    alive = matches.frequency[matches.frequency > 0]
    if len(alive) == 0:
        return _bins(matches, np.zeros(0))
    edges = np.unique(np.quantile(alive, np.linspace(0, 1, n_bins + 1), method="higher"))
    return _bins(matches, edges if len(edges) > 1 else np.repeat(edges, 2))


def _bins(matches: BinnedMatches, edges: Float64[np.ndarray, " edges"]) -> list[FrequencyBin]:
    """The bin of frequency 0, if it holds anything, and the bins between the edges."""
    dead = matches.frequency == 0
    bins = [_bin(0.0, 0.0, dead, matches)] if dead.any() else []
    last = len(edges) - 2
    place = np.clip(np.searchsorted(edges, matches.frequency, side="right") - 1, 0, max(last, 0))
    return bins + [_bin(float(edges[i]), float(edges[i + 1]), ~dead & (place == i), matches) for i in range(last + 1)]


def _bin(low: float, high: float, inside: np.ndarray, matches: BinnedMatches) -> FrequencyBin:
    values = matches.cosine[inside]
    return FrequencyBin(
        low=low,
        high=high,
        n_matches=len(values),
        mean_cosine=float(values.mean()) if len(values) else None,
        sd_cosine=float(values.std(ddof=1)) if len(values) > 1 else None,
        contribution=float((values * matches.weight[inside]).sum()),
    )
