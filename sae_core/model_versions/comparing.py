"""The dictionaries of two versions of a model, matched pair by pair. Part of *model versions*."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sae_core.config import ConsistencyConfig
from sae_core.consistency.nulls import chance_corrected, mean_null_mcc
from sae_core.consistency.pairs import NullDraws, histogram_edges
from sae_core.consistency.results import CosineHistogram
from sae_core.consistency.statistics import pair_mean
from sae_core.matching import Matching
from sae_core.model_versions.matched_pairs import AcrossPair, matched_pairs, width_of
from sae_core.model_versions.results import AcrossVersions
from sae_core.model_versions.tables import feature_table, pair_table, share_without
from sae_core.model_versions.uncertainty import Across, across_statistics
from sae_core.model_versions.version_runs import VersionRuns
from sae_core.progress import Progress, silent


@dataclass(frozen=True)
class VersionsReport:
    """The comparison and the tables behind it."""

    across: AcrossVersions
    pairs: pa.Table
    """One row a pair of runs, across and within the versions."""
    features: pa.Table
    """One row a feature of a run of either version."""


def compare_versions(
    old: VersionRuns, new: VersionRuns, config: ConsistencyConfig, progress: Progress = silent
) -> VersionsReport:
    """Match every run of the old version with every run of the new one.

    Args:
        config: thresholds, draws of the sign-flip null, time for one matching, bins, seed.
        progress: called before every matching.

    Raises:
        NotComparable: if the decoders of the two versions have another width.
        ValueError: as :func:`sae_core.matching.match` does, and for fewer than two runs of a version.
    """
    d_in = width_of(old, new)
    pairs = list(matched_pairs(old, new, config, progress))
    shape = (len(old.names), len(new.names))
    same = np.array([pair.same_seed for pair in pairs]).reshape(shape)
    values = np.array([pair.found.mcc for pair in pairs]).reshape(shape)
    statistics = across_statistics(values, old.within, new.within, same)
    features = feature_table(pairs, old, new)
    across = AcrossVersions(
        runs_old=old.names,
        runs_new=new.names,
        d_in=d_in,
        n_features_old=[len(W_dec) for W_dec in old.dictionaries.values()],
        n_features_new=[len(W_dec) for W_dec in new.dictionaries.values()],
        within_old=pair_mean(old.within),
        within_new=pair_mean(new.within),
        **_statistics(statistics, old, new),
        **_chance(pairs, statistics.mean, d_in, config),
        **_shares(pairs, features, config.thresholds),
    )
    return VersionsReport(across, pair_table(pairs, old, new), features)


def _statistics(found: Across, old: VersionRuns, new: VersionRuns) -> dict[str, Any]:
    all_pairs = found.mean - (pair_mean(old.within) + pair_mean(new.within)) / 2
    return {
        "pw_mcc_across": found.mean,
        "across_ci_low": found.interval and found.interval.low,
        "across_ci_high": found.interval and found.interval.high,
        "pw_mcc_same_seed": found.same_seed,
        "n_pairs_same_seed": found.n_same_seed,
        "pw_mcc_different_seed": found.different_seed,
        "n_pairs_different_seed": found.n_different_seed,
        "difference": found.difference,
        "difference_ci_low": found.difference_interval and found.difference_interval.low,
        "difference_ci_high": found.difference_interval and found.difference_interval.high,
        "difference_all_pairs": all_pairs,
        "ci_reason": found.reason,
    }


def _chance(pairs: Sequence[AcrossPair], mcc: float, d_in: int, config: ConsistencyConfig) -> dict[str, Any]:
    sizes = [_n_directions(pair.found) for pair in pairs]
    isotropic = mean_null_mcc(sizes, d_in, config.seed)
    nulls = [pair.null for pair in pairs if pair.null is not None]
    sign_flip = float(np.mean([null.mcc for null in nulls])) if nulls else None
    reasons = {} if nulls else {"null_sign_flip": "switched off (n_null_draws: 0)"}
    stopped = [
        f"{pair.old} and {pair.new}: {reason}"
        for pair in pairs
        for reason in [pair.found.stopped, *(pair.null.stopped if pair.null else ())]
        if reason
    ]
    return {
        "null_isotropic": isotropic,
        "null_sign_flip": sign_flip,
        "null_sign_flip_upper_bound": float(np.mean([null.upper_bound for null in nulls])) if nulls else None,
        "kappa_isotropic": _kappa(mcc, isotropic),
        "kappa_sign_flip": _kappa(mcc, sign_flip),
        "certified": all(pair.found.certified for pair in pairs) and all(null.certified for null in nulls),
        "upper_bound": float(np.mean([pair.found.upper_bound for pair in pairs])),
        "stopped": stopped,
        "not_measured": reasons,
        "histogram": _histogram(pairs, nulls, config),
    }


def _n_directions(found: Matching) -> tuple[int, int]:
    return len(found.best_left) - found.n_excluded_left, len(found.best_right) - found.n_excluded_right


def _kappa(mcc: float, null: float | None) -> float | None:
    return None if null is None or not null < 1 else chance_corrected(mcc, null)


def _histogram(pairs: Sequence[AcrossPair], nulls: Sequence[NullDraws], config: ConsistencyConfig) -> CosineHistogram:
    edges = histogram_edges(config.n_histogram_bins)
    scores = np.concatenate([pair.found.score for pair in pairs])
    return CosineHistogram(
        edges=edges.tolist(),
        counts=np.histogram(scores, edges)[0].tolist(),
        null_counts=np.sum([null.counts for null in nulls], axis=0).tolist() if nulls else None,
    )


def _shares(pairs: Sequence[AcrossPair], features: pa.Table, thresholds: Sequence[float]) -> dict[str, Any]:
    scores = np.concatenate([pair.found.score for pair in pairs])
    new, old = ({f"{t:g}": share_without(features, side, t) for t in thresholds} for side in ("new", "old"))
    return {
        "shared_fraction": {f"{t:g}": float((scores >= t).mean()) for t in thresholds},
        "n_agreed_new": {t: n for t, (n, _) in new.items()},
        "share_new": {t: share for t, (_, share) in new.items()},
        "n_agreed_old": {t: n for t, (n, _) in old.items()},
        "share_lost": {t: share for t, (_, share) in old.items()},
    }
