"""How far runs found the truth: GT-MCC beside its chance levels, and what every feature found.

Part of the *synthetic* stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float64
from scipy.special import stdtrit
from scipy.stats import rankdata

from sae_core.consistency import CosineHistogram, Run, chance_corrected
from sae_core.consistency.nulls import mean_null_mcc, sign_flip_matchings
from sae_core.consistency.pairs import histogram_edges
from sae_core.matching import Matching, match
from sae_core.synthetic.ground_truth import checked_truth, n_recovered
from sae_core.synthetic.results import Recovery, SeedCorrelation
from sae_core.synthetic_config import MeasuresConfig

N_HISTOGRAM_BINS = 50
EXACT_PERMUTATIONS_UP_TO = 8
"""Up to so many runs all their permutations are tried, 40,320; beyond, ``N_PERMUTATIONS`` random ones."""
N_PERMUTATIONS = 10_000
_DOES_NOT_VARY = 1e-9


@dataclass(frozen=True)
class Recovered:
    """How far runs found the truth."""

    summary: Recovery
    matchings: tuple[Matching, ...]
    """Of every run: left are its features, right the true ones; absolute cosines."""
    table: pa.Table
    """One row a feature of a run: ``run``, ``feature``; ``frequency``, null when unknown; ``truth``, the true feature
    matched with it, and ``cosine``, signed, with that one, null without a match; ``nearest_truth``, the true feature
    with the largest absolute cosine, and ``nearest_cosine``, that absolute cosine, null for a row of zeros."""


def recover(runs: Sequence[Run], truth: Float[np.ndarray, "d_gt d_in"] | None, measures: MeasuresConfig) -> Recovered:
    """Match every run with the truth.

    The interval is Student's t over runs. The sign-flip null draws counterparts of the truth for every run anew.

    Args:
        runs: at least two.
        truth: true features, one a row. None, as of activations whose features nobody knows, is refused.
        measures: draws of the null, thresholds and seed.

    Raises:
        ValueError: if there is no truth or it has another width than the runs, for fewer than two runs, in one
            dimension, where all directions are the same, or as :func:`sae_core.matching.match` does.
    """
    truth = checked_truth(runs, truth)
    if len(runs) < 2:
        raise ValueError(f"an interval over runs needs at least two of them: got {len(runs)}; train another seed")
    if truth.shape[1] == 1:
        raise ValueError(
            "in one dimension all directions are the same, so nothing can be recovered: got d_in=1; raise it"
        )
    matchings = tuple(match(run.W_dec, truth, names=(run.name, "the ground truth")) for run in runs)
    return Recovered(_summary(runs, truth, matchings, measures), matchings, _table(runs, matchings))


def seed_correlation(
    pair_mccs: Float[np.ndarray, "runs others"], gt_mccs: Float[np.ndarray, " _"], seed: int = 0
) -> SeedCorrelation:
    """Whether runs that agree more with the others are closer to the truth.

    The p-value is the share of permutations of the runs whose absolute Pearson correlation is at least the true one:
    of all of them up to eight runs, else of 10,000 random ones and the true one.

    Args:
        pair_mccs: symmetric, MCC of runs i and j; the diagonal is ignored.
        gt_mccs: GT-MCC of the same runs.
        seed: of the random permutations.

    Raises:
        ValueError: if the matrix is not one of at least two runs, as many as there are GT-MCCs.
    """
    n_runs = len(gt_mccs)
    if pair_mccs.shape != (n_runs, n_runs) or n_runs < 2:
        raise ValueError(
            f"expected the MCC of every pair of at least two runs, as many as GT-MCCs: got shape {pair_mccs.shape} "
            f"and {n_runs} GT-MCCs; pass those of the same runs"
        )
    with_others = np.where(np.eye(n_runs, dtype=bool), 0.0, pair_mccs).sum(axis=1) / (n_runs - 1)
    x, y = with_others.astype(np.float64), gt_mccs.astype(np.float64)
    if min(x.std(), y.std()) <= _DOES_NOT_VARY:
        return SeedCorrelation(pearson=None, spearman=None, p_value=None, n_runs=n_runs)
    # Rounded: equal values must have equal ranks whatever the order of their sums.
    ranks = [rankdata(np.round(values, 12)) for values in (x, y)]
    return SeedCorrelation(
        pearson=_pearson(x, y), spearman=_pearson(*ranks), p_value=_permutation_p(x, y, seed), n_runs=n_runs
    )


def _summary(
    runs: Sequence[Run], truth: Float[np.ndarray, "d_gt d_in"], matchings: Sequence[Matching], measures: MeasuresConfig
) -> Recovery:
    by_run = np.array([found.mcc for found in matchings])
    gt_mcc, half_width = float(by_run.mean()), _half_width(by_run)
    sizes = [(len(found.best_left) - found.n_excluded_left, len(truth)) for found in matchings]
    isotropic = mean_null_mcc(sizes, truth.shape[1], measures.seed)
    sign_flip, null_counts = _sign_flip(runs, truth, measures) if measures.n_null_draws else (None, None)
    correctable = sign_flip is not None and sign_flip < 1 - 1e-9
    edges = histogram_edges(N_HISTOGRAM_BINS)
    return Recovery(
        gt_mcc=gt_mcc,
        gt_ci_low=gt_mcc - half_width,
        gt_ci_high=gt_mcc + half_width,
        gt_mcc_by_run=by_run.tolist(),
        null_isotropic=isotropic,
        null_sign_flip=sign_flip,
        kappa_isotropic=chance_corrected(gt_mcc, isotropic),
        kappa_sign_flip=chance_corrected(gt_mcc, sign_flip) if sign_flip is not None and correctable else None,
        recovered_fraction={
            f"{tau:g}": float(np.mean([n_recovered(found, tau) for found in matchings])) / len(truth)
            for tau in measures.thresholds
        },
        uniqueness=float(np.mean([_uniqueness(found) for found in matchings])),
        histogram=CosineHistogram(
            edges=edges.tolist(),
            counts=np.histogram(np.concatenate([found.score for found in matchings]), edges)[0].tolist(),
            null_counts=None if null_counts is None else null_counts.tolist(),
        ),
    )


def _sign_flip(
    runs: Sequence[Run], truth: Float[np.ndarray, "d_gt d_in"], measures: MeasuresConfig
) -> tuple[float, Float64[np.ndarray, " bins"]]:
    """Mean GT-MCC of the null, and its histogram: averaged over draws, summed over runs."""
    edges, mccs = histogram_edges(N_HISTOGRAM_BINS), []
    counts = np.zeros(N_HISTOGRAM_BINS)
    for number, run in enumerate(runs):
        seed = int(np.random.SeedSequence([measures.seed, number]).generate_state(1)[0])
        for null in sign_flip_matchings(run.W_dec, truth, measures.n_null_draws, seed):
            mccs.append(null.mcc)
            counts += np.histogram(null.score, edges)[0]
    return float(np.mean(mccs)), counts / measures.n_null_draws


def _half_width(values: Float64[np.ndarray, " runs"]) -> float:
    """Of the 95 % interval of a mean."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / float(np.sqrt(n))


def _uniqueness(found: Matching) -> float:
    nearest = found.nearest_left[found.nearest_left >= 0]
    return len(np.unique(nearest)) / len(found.nearest_left)


def _pearson(x: Float64[np.ndarray, " runs"], y: Float64[np.ndarray, " runs"]) -> float:
    return float(np.clip(_standardised(x) @ _standardised(y) / len(x), -1, 1))


def _standardised(values: Float64[np.ndarray, " runs"]) -> Float64[np.ndarray, " runs"]:
    return np.asarray((values - values.mean()) / values.std())


def _permutation_p(x: Float64[np.ndarray, " runs"], y: Float64[np.ndarray, " runs"], seed: int) -> float:
    n, x, y = len(x), _standardised(x), _standardised(y)
    if n <= EXACT_PERMUTATIONS_UP_TO:
        orders = np.array(list(permutations(range(n))))
    else:
        drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (N_PERMUTATIONS, 1)), axis=1)
        orders = np.concatenate([np.arange(n)[None], drawn])  # the true order is one of those that were tried
    # Rounding must not tell equal correlations apart.
    return float((np.abs(y[orders] @ x) >= abs(x @ y) - 1e-9).mean())


def _table(runs: Sequence[Run], matchings: Sequence[Matching]) -> pa.Table:
    return pa.concat_tables([_features_of(run, found) for run, found in zip(runs, matchings, strict=True)])


def _features_of(run: Run, found: Matching) -> pa.Table:
    n = len(run.W_dec)
    truth, cosine = np.full(n, -1), np.zeros(n)
    truth[found.left], cosine[found.left] = found.right, found.cosine
    directionless = found.nearest_left < 0
    frequency = pa.nulls(n, pa.float64()) if run.frequency is None else pa.array(run.frequency, pa.float64())
    return pa.table(
        {
            "run": pa.array([run.name] * n, pa.string()),
            "feature": pa.array(np.arange(n), pa.int64()),
            "frequency": frequency,
            "truth": pa.array(truth, pa.int64(), mask=truth < 0),
            "cosine": pa.array(cosine, pa.float64(), mask=truth < 0),
            "nearest_truth": pa.array(found.nearest_left, pa.int64(), mask=directionless),
            "nearest_cosine": pa.array(found.best_left, pa.float64(), mask=directionless),
        }
    )
